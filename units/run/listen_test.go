package run

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// listenLines takes one connection on a unix socket, and tells all that came.
func listenLines(t *testing.T) (socket string, all <-chan string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "run") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(conn)
		c <- string(data)
	}()
	return socket, c
}
