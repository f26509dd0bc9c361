unit(pattern USES policy spiffe)
unit(policy USES policy spiffe)
unit(local_caller USES policy spiffe)
fuzz(rules USES policy spiffe)
