unit(spiffe_id USES spiffe)
fuzz(spiffe_id USES spiffe)
