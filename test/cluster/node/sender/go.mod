module outrider.dev/test/cluster/node/sender

go 1.26.0
