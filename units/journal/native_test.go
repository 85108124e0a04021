package journal

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listen is journald's end.
func listen(t *testing.T) (path string, next func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "journal") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	buf := make([]byte, 512<<10)
	return path, func() string {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestNative(t *testing.T) {
	t.Parallel()
	path, next := listen(t)
	n, err := openNative(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	send := func(fields ...Field) {
		t.Helper()
		if err := n.Send(fields...); err != nil {
			t.Error(err)
		}
	}
	send(Field{"MESSAGE", []byte("a = b")}, Field{"JOB_ID", []byte("j")}, Field{"PRIORITY", []byte("6")})
	if diff := cmp.Diff("MESSAGE=a = b\nJOB_ID=j\nPRIORITY=6\n", next()); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	send(Field{"MESSAGE", []byte("two\nlines")})
	if diff := cmp.Diff("MESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n", next()); diff != "" {
		t.Errorf("entry of two lines (-want +got):\n%s", diff)
	}
	long := bytes.Repeat([]byte{0xff}, 200<<10)
	send(Field{"MESSAGE", long})
	if got := next(); len(got) != len("MESSAGE=\n")+len(long) {
		t.Errorf("%d bytes came", len(got))
	}
}

// TestNativeWaits: more than the kernel keeps of a socket whose reader is slow
// is not lost.
func TestNativeWaits(t *testing.T) {
	t.Parallel()
	const entries = 2000
	path, next := listen(t)
	n, err := openNative(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	sent := make(chan error, 1)
	go func() {
		for range entries {
			if err := n.Send(Field{"MESSAGE", []byte("x")}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for range entries {
		next()
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestNativeConnectsAgain(t *testing.T) {
	t.Parallel()
	path, _ := listen(t)
	n, err := openNative(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, next := listen(t)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	n.close() // what the end of the first one comes to
	if err := n.Send(Field{"MESSAGE", []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "MESSAGE=x\n" {
		t.Errorf("came %q", got)
	}
}

func TestNoNative(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	if n, err := OpenNative(); n != nil || err != nil {
		t.Errorf("opened %v, %v", n, err)
	}
}
