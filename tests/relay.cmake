sim(relay USES relay stream)
