package bus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gpuherd/monitor/state"
)

func signal(iface, member string, body ...any) *dbus.Message {
	return &dbus.Message{
		Type: dbus.TypeSignal, Flags: dbus.FlagNoReplyExpected,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(UnitPath("w@0.service")), dbus.FieldInterface: dbus.MakeVariant(iface),
			dbus.FieldMember: dbus.MakeVariant(member), dbus.FieldSender: dbus.MakeVariant(":1.1"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
		},
		Body: body,
	}
}

func changeOf(iface string, props map[string]dbus.Variant) *dbus.Message {
	return signal(propsIface, "PropertiesChanged", iface, props, []string{"Conditions", "Asserts"})
}

// everything has a property of each type that systemd has.
func everything() map[string]dbus.Variant {
	type exec struct {
		Path string
		Argv []string
		Fail bool
		A, B uint64
		PID  uint32
	}
	return map[string]dbus.Variant{
		"ActiveState": dbus.MakeVariant("active"), "SubState": dbus.MakeVariant("running"), "Result": dbus.MakeVariant("success"),
		"StatusText": dbus.MakeVariant("job 1: 40%"), "MainPID": dbus.MakeVariant(uint32(7)), "ExecMainPID": dbus.MakeVariant(uint32(7)),
		"NRestarts": dbus.MakeVariant(uint32(3)), "ExecMainCode": dbus.MakeVariant(int32(-1)), "ExecMainStatus": dbus.MakeVariant(int32(9)),
		"StateChangeTimestamp": dbus.MakeVariant(uint64(1 << 60)), "StateChangeTimestampMonotonic": dbus.MakeVariant(uint64(5)),
		"InvocationID": dbus.MakeVariant(bytes.Repeat([]byte{0xab}, 16)),
		"Job": dbus.MakeVariant(struct {
			ID   uint32
			Path dbus.ObjectPath
		}{4, "/org/freedesktop/systemd1/job/4"}),
		"ExecStart": dbus.MakeVariant([]exec{{"/bin/true", []string{"true", ""}, true, 1, 2, 3}, {}}), "None": dbus.MakeVariant([]exec{}),
		"Byte": dbus.MakeVariant(byte(1)), "Short": dbus.MakeVariant(int16(1)), "Bool": dbus.MakeVariant(true), "Double": dbus.MakeVariant(1.5),
		"Signature": dbus.MakeVariant(dbus.ParseSignatureMust("a{sv}")), "Path": dbus.MakeVariant(dbus.ObjectPath("/")),
		"Nested": dbus.MakeVariant(dbus.MakeVariant(map[string]dbus.Variant{"a": dbus.MakeVariant([]uint64{1})})),
		"Deep":   dbus.MakeVariant([][]byte{{1}, {}, {2, 3}}),
	}
}

// heard is what comes out at the end of a sieve, in order: what it delivers,
// and what godbus reads.
func heard(t *testing.T, stream io.Reader) []*dbus.Signal {
	t.Helper()
	var all []*dbus.Signal
	s := newSieve(struct {
		io.Reader
		io.WriteCloser
	}{Reader: stream}, func(sig *dbus.Signal) { all = append(all, sig) })
	for {
		msg, err := dbus.DecodeMessage(s)
		if err == io.EOF { //nolint:errorlint // as it comes
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("passed: ", msg.Headers[dbus.FieldInterface].Value(), ".", msg.Headers[dbus.FieldMember].Value())
		all = append(all, &dbus.Signal{Name: name, Body: msg.Body})
	}
}

func TestSieve(t *testing.T) {
	t.Parallel()
	wrong := map[string]dbus.Variant{"ActiveState": dbus.MakeVariant(uint32(1)), "SubState": dbus.MakeVariant("dead")}
	long := map[string]dbus.Variant{"StatusText": dbus.MakeVariant(strings.Repeat("x", sieveSize))}
	messages := []*dbus.Message{
		changeOf(serviceIface, everything()),
		signal(managerIface, "Reloading", true),
		changeOf(unitIface, wrong),
		changeOf(serviceIface, long),
		changeOf("org.example.Empty", map[string]dbus.Variant{}),
		signal(propsIface, "PropertiesChanged", "short"),
		signal("org.example.Other", "PropertiesChanged", "a", map[string]dbus.Variant{}, []string{}),
	}
	some := everything()
	for name := range some {
		if kept[name] == "" {
			delete(some, name)
		}
	}
	at := func(iface string, props map[string]dbus.Variant) *dbus.Signal {
		return &dbus.Signal{Sender: ":1.1", Path: UnitPath("w@0.service"), Name: propsChanged, Body: []any{iface, props}}
	}
	passed := func(name string, body ...any) *dbus.Signal { return &dbus.Signal{Name: "passed: " + name, Body: body} }
	want := []*dbus.Signal{
		at(serviceIface, some),
		passed(managerIface+".Reloading", true),
		at(unitIface, map[string]dbus.Variant{"SubState": dbus.MakeVariant("dead")}),
		passed(propsChanged, serviceIface, long, []string{"Conditions", "Asserts"}),
		at("org.example.Empty", map[string]dbus.Variant{}),
		passed(propsChanged, "short"),
		passed("org.example.Other.PropertiesChanged", "a", map[string]dbus.Variant{}, []string{}),
	}
	// Job is a struct where godbus was given it, and a slice where it is read.
	want[0].Body[1].(map[string]dbus.Variant)["Job"] = dbus.MakeVariant([]any{uint32(4), dbus.ObjectPath("/org/freedesktop/systemd1/job/4")})
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		var stream bytes.Buffer
		for _, m := range messages {
			if err := m.EncodeTo(&stream, order); err != nil {
				t.Fatal(err)
			}
		}
		for name, cut := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "bytes": iotest.OneByteReader,
		} {
			got := heard(t, cut(bytes.NewReader(stream.Bytes())))
			same := cmp.Comparer(func(a, b dbus.Variant) bool { return cmp.Equal(a.Value(), b.Value(), cmpopts.EquateEmpty()) })
			if diff := cmp.Diff(want, got, same, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(dbus.Signal{})); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", order, name, diff)
			}
		}
	}
}

// What merge takes a sieve keeps: a property that one of them knows and the
// other does not would be lost without a word.
func TestSieveKeepsWhatMergeTakes(t *testing.T) {
	t.Parallel()
	var frame bytes.Buffer
	if err := changeOf(serviceIface, everything()).EncodeTo(&frame, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	var o state.Observation
	merge(&o, change(frame.Bytes()).Body[1].(map[string]dbus.Variant))
	otherwise := []string{ // by the caller, and by mergeFull
		"Name", "ReceivedUS", "ControlGroup", "Slice", "MemoryMax", "Memory", "MemoryPeak", "CPUNS",
	}
	v := reflect.ValueOf(o)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() != slices.Contains(otherwise, name) {
			t.Errorf("%s is %v", name, v.Field(i))
		}
	}
}

// The lines of the authentication are for godbus.
func TestSieveAuthentication(t *testing.T) {
	t.Parallel()
	var stream bytes.Buffer
	stream.WriteString("REJECTED EXTERNAL\r\nOK 1234\r\n")
	var delivered int
	s := newSieve(struct {
		io.Reader
		io.WriteCloser
	}{Reader: io.MultiReader(&stream, strings.NewReader("AGREE_UNIX_FD\r\n"))}, func(*dbus.Signal) { delivered++ })
	got, err := io.ReadAll(s)
	if err != nil || string(got) != "REJECTED EXTERNAL\r\nOK 1234\r\nAGREE_UNIX_FD\r\n" || delivered != 0 {
		t.Errorf("%q %v, %d delivered", got, err, delivered)
	}
}

// What a sieve takes out of a stream godbus would have read as the same.
func FuzzChange(f *testing.F) {
	for _, m := range []*dbus.Message{
		changeOf(serviceIface, everything()), changeOf(unitIface, nil), signal(managerIface, "Reloading", true),
	} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			var b bytes.Buffer
			if err := m.EncodeTo(&b, order); err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < frameHead || !startsFrame(frame[0]) {
			return
		}
		if n, ok := frameLength(frame); !ok || n != len(frame) {
			return
		}
		sig := change(frame)
		msg, err := dbus.DecodeMessage(bytes.NewReader(frame))
		if sig == nil || err != nil {
			return // godbus is stricter, of names and text
		}
		props, _ := msg.Body[1].(map[string]dbus.Variant)
		for name, v := range sig.Body[1].(map[string]dbus.Variant) {
			if !cmp.Equal(v.Value(), props[name].Value(), cmpopts.EquateEmpty()) {
				t.Errorf("%s is %v, godbus says %v", name, v, props[name])
			}
		}
		if string(sig.Path) != fmt.Sprint(msg.Headers[dbus.FieldPath].Value()) || sig.Body[0] != msg.Body[0] {
			t.Errorf("%v of %s, godbus says %v", sig.Body[0], sig.Path, msg)
		}
	})
}

// The same message read by a sieve and by godbus.
func BenchmarkChange(b *testing.B) {
	var frame bytes.Buffer
	if err := changeOf(serviceIface, everything()).EncodeTo(&frame, binary.LittleEndian); err != nil {
		b.Fatal(err)
	}
	b.Run("sieve", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if change(frame.Bytes()) == nil {
				b.Fatal("it is no change")
			}
		}
	})
	b.Run("godbus", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := dbus.DecodeMessage(bytes.NewReader(frame.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}
