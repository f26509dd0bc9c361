unit(diag USES caller policy spiffe)
unit(caller USES caller policy spiffe)
fuzz(diag_reply USES caller policy spiffe)
