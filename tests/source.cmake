unit(backoff USES source)
