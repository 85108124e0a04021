package bus

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/godbus/dbus/v5"
)

// The D-Bus wire format, as far as changes of properties and small questions
// need it; see "Message Format" of the D-Bus specification.
const (
	frameHead    = 16 // the fixed part: through the length of the array of header fields
	typeCall     = 1
	typeReturn   = 2
	typeError    = 3
	typeSignal   = 4
	fieldPath    = 1
	fieldIface   = 2
	fieldMember  = 3
	fieldError   = 4
	fieldReplies = 5
	fieldTo      = 6
	fieldSender  = 7
	fieldSign    = 8
	changeSign   = "sa{sv}as"
	deepest      = 64 // containers within each other
)

// startsFrame tells a message from a line of authentication by its byte order.
func startsFrame(b byte) bool { return b == 'l' || b == 'B' }

// frameLength returns how long the message is that begins with head.
func frameLength(head []byte) (int, bool) {
	order := binary.ByteOrder(binary.LittleEndian)
	if head[0] == 'B' {
		order = binary.BigEndian
	}
	body, fields := uint64(order.Uint32(head[4:])), uint64(order.Uint32(head[12:]))
	length := frameHead + (fields+7)/8*8 + body
	return int(min(length, math.MaxInt32)), length <= 1<<27
}

// kept are the properties that merge takes, with the types that it takes them
// in. Of which interface they are is no matter.
var kept = map[string]string{
	"ActiveState": "s", "SubState": "s", "Result": "s", "StatusText": "s",
	"MainPID": "u", "ExecMainPID": "u", "NRestarts": "u", "ExecMainCode": "i", "ExecMainStatus": "i",
	"StateChangeTimestamp": "t", "StateChangeTimestampMonotonic": "t", "InvocationID": "ay", "Job": "(uo)",
}

// change returns the PropertiesChanged that frame, a whole message, is, with
// the kept properties alone, or nil where it is another message, or one that
// godbus may know better how to read.
func change(frame []byte) *dbus.Signal {
	r, h := openFrame(frame)
	if r.bad || h.kind != typeSignal || h.sign != changeSign || h.texts[fieldIface] != propsIface || h.texts[fieldMember] != "PropertiesChanged" {
		return nil
	}
	of := r.string()
	props := map[string]dbus.Variant{}
	r.array(8, func() {
		r.align(8)
		name, kind := r.string(), r.signature()
		if want, ok := kept[name]; !ok || want != kind {
			r.skip(kind, 0)
			return
		}
		props[name] = dbus.MakeVariant(r.value(kind))
	})
	if r.bad {
		return nil
	}
	return &dbus.Signal{Sender: h.texts[fieldSender], Path: dbus.ObjectPath(h.texts[fieldPath]), Name: propsChanged, Body: []any{of, props}}
}

// A header is what the header of a message says, as far as it is asked for.
type header struct {
	kind    byte
	texts   [fieldSender + 1]string // by field
	sign    string
	replies uint32 // to which call it is the reply
}

// openFrame reads the header of frame, a whole message, and returns what reads
// its body.
func openFrame(frame []byte) (frameReader, header) {
	r := frameReader{buf: frame, order: binary.LittleEndian, at: 12}
	if frame[0] == 'B' {
		r.order = binary.BigEndian
	}
	h := header{kind: frame[1]}
	r.array(8, func() {
		r.align(8)
		field, kind := r.byte(), r.signature()
		switch {
		case field == fieldReplies && kind == "u":
			h.replies = r.uint32()
		case field == fieldSign && kind == "g":
			h.sign = r.signature()
		case kind == "s" || kind == "o":
			if text := r.string(); int(field) < len(h.texts) {
				h.texts[field] = text
			}
		default:
			r.skip(kind, 0)
		}
	})
	r.align(8)
	return r, h
}

// A frameReader reads a message from its front. What is wrong with it makes it
// bad, and everything after reads as nothing.
type frameReader struct {
	buf   []byte
	order binary.ByteOrder
	at    int
	bad   bool
}

func (r *frameReader) wrong() error {
	if r.bad {
		return errors.New("cannot read its answer")
	}
	return nil
}

func (r *frameReader) align(n int) { r.take((n - r.at%n) % n) }

// take returns the next n bytes, nil where there are fewer.
func (r *frameReader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.buf)-r.at {
		r.bad = true
		return nil
	}
	r.at += n
	return r.buf[r.at-n : r.at]
}

func (r *frameReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *frameReader) uint32() uint32 {
	r.align(4)
	if b := r.take(4); b != nil {
		return r.order.Uint32(b)
	}
	return 0
}

func (r *frameReader) uint64() uint64 {
	r.align(8)
	if b := r.take(8); b != nil {
		return r.order.Uint64(b)
	}
	return 0
}

// length reads the length of a string or an array.
func (r *frameReader) length() int { return int(min(r.uint32(), math.MaxInt32)) }

// text returns n bytes and steps over the NUL that ends them.
func (r *frameReader) text(n int) string {
	b := r.take(n)
	if r.take(1); r.bad {
		return ""
	}
	return string(b)
}

func (r *frameReader) string() string    { return r.text(r.length()) }
func (r *frameReader) signature() string { return r.text(int(r.byte())) }

// array calls element until the array's bytes are used up. alignment is that of
// its elements, whose padding does not count to the length.
func (r *frameReader) array(alignment int, element func()) {
	n := r.length()
	r.align(alignment)
	end := r.at + n
	if end > len(r.buf) {
		r.bad = true
	}
	for !r.bad && r.at < end {
		element()
	}
	if r.at != end {
		r.bad = true
	}
}

// value reads one of the types of kept.
func (r *frameReader) value(kind string) any {
	switch kind {
	case "s":
		return r.string()
	case "u":
		return r.uint32()
	case "i":
		return int32(r.uint32()) //nolint:gosec // two's complement is what it is
	case "t":
		return r.uint64()
	case "ay":
		return append([]byte{}, r.take(r.length())...)
	case "(uo)":
		r.align(8)
		return []any{r.uint32(), dbus.ObjectPath(r.string())}
	}
	r.bad = true
	return nil
}

// alignment returns what a type is aligned to, by the first letter of its
// signature.
func alignment(kind byte) int {
	switch kind {
	case 'y', 'g', 'v':
		return 1
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 's', 'o', 'a', 'h':
		return 4
	}
	return 8
}

// skip steps over a value of the first complete type of kind, and returns the
// types after it.
func (r *frameReader) skip(kind string, depth int) string {
	if kind == "" || depth > deepest {
		r.bad = true
		return ""
	}
	if r.bad {
		return ""
	}
	rest := kind[1:]
	switch kind[0] {
	case 'y':
		r.take(1)
	case 'n', 'q':
		r.align(2)
		r.take(2)
	case 'b', 'i', 'u', 'h':
		r.uint32()
	case 'x', 't', 'd':
		r.uint64()
	case 's', 'o':
		n := r.length()
		r.take(n)
		r.take(1)
	case 'g':
		n := int(r.byte())
		r.take(n)
		r.take(1)
	case 'v':
		inner := r.signature()
		if r.skip(inner, depth+1) != "" {
			r.bad = true
		}
	case 'a':
		if rest == "" {
			r.bad = true
			return ""
		}
		n := r.length()
		r.align(alignment(rest[0]))
		r.take(n)
		return after(rest, depth+1)
	case '(', '{':
		r.align(8)
		for rest != "" && rest[0] != ')' && rest[0] != '}' {
			rest = r.skip(rest, depth+1)
		}
		if rest == "" {
			r.bad = true
			return ""
		}
		rest = rest[1:]
	default:
		r.bad = true
	}
	return rest
}

// after returns what follows the first complete type of kind.
func after(kind string, depth int) string {
	switch {
	case kind == "" || depth > deepest:
		return ""
	case kind[0] == 'a':
		return after(kind[1:], depth+1)
	case kind[0] != '(' && kind[0] != '{':
		return kind[1:]
	}
	open := 0
	for i := range len(kind) {
		switch kind[i] {
		case '(', '{':
			open++
		case ')', '}':
			if open--; open == 0 {
				return kind[i+1:]
			}
		}
	}
	return ""
}
