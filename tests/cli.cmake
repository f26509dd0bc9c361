unit(cli USES cli conf policy spiffe)
