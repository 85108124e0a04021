package redistest

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports lie below the range that the kernel gives to outgoing connections, with
// room for the bus of a Cluster, which listens 10000 above.
const (
	firstPort  = 11000
	ports      = 10000
	busDistant = 10000
)

var (
	portsMu sync.Mutex
	portsOf = map[int]bool{} // given out in this process
)

// freePort returns a port of 127.0.0.1 that nobody listens on, nor on that of
// its bus. A server takes it a moment later: of all numbers at random, since
// the tests of other packages look for some at the same time.
func freePort(tb testing.TB) int {
	tb.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for range 1000 {
		n := firstPort + rand.IntN(ports)
		if !portsOf[n] && free(n) && free(n+busDistant) {
			portsOf[n] = true
			return n
		}
	}
	tb.Fatal("no port is free")
	return 0
}

func free(port int) bool {
	var listen net.ListenConfig
	l, err := listen.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
