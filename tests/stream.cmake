unit(stream_plain USES stream)
