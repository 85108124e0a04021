package resources

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// parse takes a number; "max", no limit, is nil.
func parse(data []byte, to **uint64) error {
	data = bytes.TrimSpace(data)
	if string(data) == "max" {
		*to = nil
		return nil
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return err
	}
	*to = &n
	return nil
}

// number takes a file of one number.
func number(field func(*Usage) **uint64) func(*Usage, []byte) error {
	return func(u *Usage, data []byte) error { return parse(data, field(u)) }
}

// key takes the number behind a name in a file of lines "name number". Where
// the name is not there, it leaves *to as it is.
func key(data []byte, name string, to **uint64) error {
	for line := range bytes.Lines(data) {
		if word, value, ok := bytes.Cut(line, []byte(" ")); ok && string(word) == name {
			return parse(value, to)
		}
	}
	return nil
}

// stalls takes a pressure file.
func stalls(field func(*Usage) **Stalls) func(*Usage, []byte) error {
	return func(u *Usage, data []byte) error {
		s, err := parseStalls(data)
		if err == nil {
			*field(u) = &s
		}
		return err
	}
}

// parseStalls reads a pressure file:
//
//	some avg10=0.12 avg60=0.05 avg300=0.01 total=123456
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=1234
//
// Kernels before 5.13 have no full in cpu.pressure; it is 0 then.
func parseStalls(data []byte) (Stalls, error) {
	var s Stalls
	for line := range bytes.Lines(data) {
		name, values, _ := bytes.Cut(line, []byte(" "))
		var err error
		switch string(name) {
		case "some":
			s.Some, err = parseStall(values)
		case "full":
			s.Full, err = parseStall(values)
		}
		if err != nil {
			return Stalls{}, err
		}
	}
	return s, nil
}

func parseStall(values []byte) (Stall, error) {
	var s Stall
	for word := range bytes.FieldsSeq(values) {
		name, value, _ := bytes.Cut(word, []byte("="))
		var err error
		switch string(name) {
		case "avg10":
			// NaN and Inf are numbers to ParseFloat, and none to JSON.
			if s.Avg10, err = strconv.ParseFloat(string(value), 64); err == nil && !(s.Avg10 >= 0 && s.Avg10 <= 100) {
				err = errors.New("no percentage")
			}
		case "total":
			s.TotalUS, err = strconv.ParseUint(string(value), 10, 64)
		}
		if err != nil {
			return Stall{}, fmt.Errorf("%q: %w", word, err)
		}
	}
	return s, nil
}
