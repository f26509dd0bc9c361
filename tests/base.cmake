unit(base)
unit(mailbox)
