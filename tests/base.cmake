unit(base)
unit(mailbox)
fuzz(log)
