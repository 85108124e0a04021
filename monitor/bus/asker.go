package bus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// An asker asks systemd many small things at once, in the order in which it
// reads the answers, as sd-bus does. Not even the authentication waits for an
// answer. godbus takes longer over each question than systemd does.
type asker struct {
	ctx    context.Context //nolint:containedctx // it bounds the asker's life
	conn   net.Conn
	in     *bufio.Reader
	out    []byte
	serial uint32            // of the last question
	read   uint32            // of the last answer
	frame  []byte            // of the last answer
	early  map[uint32][]byte // answers that came before their turn; systemd's never do
	stop   func() bool
}

// dialAsker connects to the socket at path, which is a bus's or systemd's own.
// ctx bounds all questions.
func dialAsker(ctx context.Context, path string, bus bool) (*asker, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	a := &asker{ctx: ctx, conn: conn, in: bufio.NewReaderSize(conn, sieveSize)}
	a.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	a.out = fmt.Appendf(a.out, "\x00AUTH EXTERNAL %s\r\nBEGIN\r\n", hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid()))))
	if bus {
		a.ask("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
	}
	err = a.send()
	var line string
	if err == nil {
		line, err = a.in.ReadString('\n')
		err = a.cut(err)
	}
	if err == nil && (!strings.HasPrefix(line, "OK ")) {
		err = errors.New("it does not let us in")
	}
	if err == nil && bus {
		_, err = a.answer()
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *asker) close() {
	a.stop()
	_ = a.conn.Close() // nothing is under way that anybody waits for
}

// cut makes ErrCut of what went wrong with the connection, unless that was cut
// because the caller's time is over.
func (a *asker) cut(err error) error {
	switch {
	case err == nil:
		return nil
	case a.ctx.Err() != nil:
		return a.ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrCut, err)
}

// due is how many answers have yet to be read.
func (a *asker) due() int { return int(a.serial - a.read) }

// get asks for a property; send is what sends it.
func (a *asker) get(path dbus.ObjectPath, iface, name string) {
	a.ask(busName, path, propsIface, "Get", iface, name)
}

// list asks for what systemd lists of units.
func (a *asker) list(names []string) {
	a.begin(busName, managerPath, managerIface, "ListUnitsByNames", "as", func(w *frameWriter) {
		w.array(4, func() {
			for _, name := range names {
				w.string(name)
			}
		})
	})
}

// ask calls a method whose arguments are strings.
func (a *asker) ask(to string, path dbus.ObjectPath, iface, member string, args ...string) {
	a.begin(to, path, iface, member, "ssss"[:len(args)], func(w *frameWriter) {
		for _, arg := range args {
			w.string(arg)
		}
	})
}

// begin adds a call to what is to be sent.
func (a *asker) begin(to string, path dbus.ObjectPath, iface, member, sign string, body func(*frameWriter)) {
	a.serial++
	w := &frameWriter{buf: a.out, begun: len(a.out)}
	w.buf = append(w.buf, 'l', typeCall, byte(dbus.FlagNoAutoStart), 1)
	w.uint32(0) // the body's length, once it is known
	w.uint32(a.serial)
	w.array(8, func() {
		w.field(fieldPath, "o", func() { w.string(string(path)) })
		w.field(fieldIface, "s", func() { w.string(iface) })
		w.field(fieldMember, "s", func() { w.string(member) })
		w.field(fieldTo, "s", func() { w.string(to) })
		if sign != "" {
			w.field(fieldSign, "g", func() { w.signature(sign) })
		}
	})
	w.align(8)
	begun := len(w.buf)
	body(w)
	binary.LittleEndian.PutUint32(w.buf[w.begun+4:], uint32(len(w.buf)-begun)) //nolint:gosec // a unit's name is short
	a.out = w.buf
}

// send sends what was asked.
func (a *asker) send() error {
	_, err := a.conn.Write(a.out)
	a.out = a.out[:0]
	return a.cut(err)
}

// answer reads the answer to the oldest question that has none yet; the reader
// stands at its body, and is good until the next call. Where systemd refused,
// the error is a dbus.Error.
func (a *asker) answer() (frameReader, error) {
	a.read++
	if frame, ok := a.early[a.read]; ok {
		delete(a.early, a.read)
		return opened(frame)
	}
	for {
		if err := a.readFrame(); err != nil {
			return frameReader{}, err
		}
		r, h := openFrame(a.frame)
		switch {
		case r.bad:
			return r, r.wrong()
		case h.kind != typeReturn && h.kind != typeError: // a signal of the bus
		case h.replies == a.read:
			return opened(a.frame)
		case h.replies < a.read || h.replies > a.serial:
			return r, fmt.Errorf("it answers question %d, which is not open", h.replies)
		default:
			if a.early == nil {
				a.early = map[uint32][]byte{}
			}
			a.early[h.replies] = bytes.Clone(a.frame)
		}
	}
}

// readFrame reads the next message.
func (a *asker) readFrame() error {
	head, err := a.in.Peek(frameHead)
	if err != nil {
		return a.cut(err)
	}
	length, ok := frameLength(head)
	if !ok || !startsFrame(head[0]) {
		return errors.New("what it answers is no D-Bus message")
	}
	if cap(a.frame) < length {
		a.frame = make([]byte, length)
	}
	a.frame = a.frame[:length]
	_, err = io.ReadFull(a.in, a.frame)
	return a.cut(err)
}

// opened returns the reader of an answer's body.
func opened(frame []byte) (frameReader, error) {
	r, h := openFrame(frame)
	if h.kind != typeError {
		return r, nil
	}
	refused := dbus.Error{Name: h.texts[fieldError]}
	if strings.HasPrefix(h.sign, "s") {
		refused.Body = []any{r.string()}
	}
	if absent(refused) {
		return r, fmt.Errorf("%w: %s", ErrCut, refused.Error()) // of no unit, so it is no refusal
	}
	return r, refused
}

// property reads the answer to get; nil is a value that is of no use here.
func (a *asker) property() (any, error) {
	r, err := a.answer()
	if err != nil {
		return nil, err
	}
	kind := r.signature()
	if kind == "as" {
		var all []string
		r.array(4, func() { all = append(all, r.string()) })
		return all, r.wrong()
	}
	v := r.value(kind)
	return v, r.wrong()
}

// listed reads the answer to list.
func (a *asker) listed() (map[string]unitState, error) {
	r, err := a.answer()
	if err != nil {
		return nil, err
	}
	states := map[string]unitState{}
	r.array(8, func() {
		r.align(8)
		var s unitState
		name := r.string()
		r.skip("s", 0) // description
		s.Load, s.Active, s.Sub = r.string(), r.string(), r.string()
		r.skip("s", 0) // the unit that it follows
		r.skip("o", 0)
		s.Job = r.uint32()
		r.skip("s", 0) // the job's type
		r.skip("o", 0)
		states[name] = s
	})
	return states, r.wrong()
}

// A unitState is what systemd lists of a unit.
type unitState struct {
	Load, Active, Sub string
	Job               uint32
}

// A frameWriter writes a message to the end of buf, where it begins at begun.
type frameWriter struct {
	buf   []byte
	begun int
}

func (w *frameWriter) align(n int) {
	for (len(w.buf)-w.begun)%n != 0 {
		w.buf = append(w.buf, 0)
	}
}

func (w *frameWriter) uint32(v uint32) {
	w.align(4)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, v)
}

func (w *frameWriter) string(s string) {
	w.uint32(uint32(len(s))) //nolint:gosec // a unit's name is short
	w.buf = append(append(w.buf, s...), 0)
}

func (w *frameWriter) signature(s string) {
	w.buf = append(append(append(w.buf, byte(len(s))), s...), 0)
}

// array writes what elements writes as an array of elements with an alignment.
func (w *frameWriter) array(alignment int, elements func()) {
	w.uint32(0)
	at := len(w.buf)
	w.align(alignment)
	begun := len(w.buf)
	elements()
	binary.LittleEndian.PutUint32(w.buf[at-4:], uint32(len(w.buf)-begun)) //nolint:gosec // some KiB
}

// field writes a header field.
func (w *frameWriter) field(code byte, kind string, value func()) {
	w.align(8)
	w.buf = append(w.buf, code)
	w.signature(kind)
	value()
}
