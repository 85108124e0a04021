package run

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxMessage is the longest message that is looked at.
const maxMessage = 64 << 10

// A channel is the parent's end of the one that child_process.fork() of node
// makes: a socket on which each line is a message in JSON. PM2's wait_ready
// and shutdown_with_message speak over it.
type channel struct {
	file *os.File
	once sync.Once
}

func newChannel() (*channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a channel: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that closing ends reading
		return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return &channel{file: os.NewFile(uintptr(fds[0]), "channel")}, os.NewFile(uintptr(fds[1]), "channel of the program"), nil
}

// read reads until the end, and closes ready when the message 'ready' comes.
func (c *channel) read(ready chan<- struct{}) {
	b := bufio.NewReaderSize(c.file, maxMessage)
	long := false // the line began in what was read before
	for said := false; ; {
		line, err := b.ReadSlice('\n')
		var message any
		if !said && !long && err == nil && json.Unmarshal(line, &message) == nil && message == "ready" {
			said = true
			close(ready)
		}
		long = errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !long {
			return
		}
	}
}

func (c *channel) send(message string) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = c.file.Write(append(line, '\n'))
	return err
}

func (c *channel) close() { c.once.Do(func() { _ = c.file.Close() }) }
