package pm2

import (
	"fmt"
	"strconv"
	"strings"

	"gpuherd/cmd/gpuherd/internal/lazyregexp"
)

// nicknames are those that both know.
var nicknames = map[string]string{
	"@hourly": "hourly", "@daily": "daily", "@midnight": "daily", "@weekly": "Sun *-*-* 00:00:00", "@monthly": "monthly", "@yearly": "yearly", "@annually": "yearly",
}

var weekdays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

var months = strings.Fields("jan feb mar apr may jun jul aug sep oct nov dec")

// Calendar turns a cron expression of five fields, or six with the seconds
// first, into values of OnCalendar= (systemd.time(7)): two where cron means one
// or the other of two days.
func Calendar(cron string) ([]string, error) {
	cron = strings.ToLower(strings.TrimSpace(cron))
	if nick, ok := nicknames[cron]; ok {
		return []string{nick}, nil
	}
	fields := strings.Fields(cron)
	if len(fields) == 5 {
		fields = append([]string{"0"}, fields...)
	}
	if len(fields) != 6 {
		return nil, fmt.Errorf("%d fields are no cron expression", len(fields))
	}
	var parts [6]string
	for i, f := range []struct {
		what     string
		min, max int
		names    []string
	}{{"second", 0, 59, nil}, {"minute", 0, 59, nil}, {"hour", 0, 23, nil}, {"day", 1, 31, nil}, {"month", 1, 12, months}, {"weekday", 0, 7, lower(weekdays)}} {
		var err error
		if parts[i], err = field(fields[i], f.min, f.max, f.names); err != nil {
			return nil, fmt.Errorf("%s %q: %w", f.what, fields[i], err)
		}
	}
	days, err := dayNames(fields[5])
	if err != nil {
		return nil, fmt.Errorf("weekday %q: %w", fields[5], err)
	}
	clock := fmt.Sprintf("%s:%s:%s", parts[2], parts[1], parts[0])
	date := fmt.Sprintf("*-%s-%s", parts[4], parts[3])
	switch {
	case days == "":
		return []string{date + " " + clock}, nil
	case parts[3] == "*":
		return []string{days + " " + date + " " + clock}, nil
	default: // cron takes either
		return []string{date + " " + clock, fmt.Sprintf("%s *-%s-* %s", days, parts[4], clock)}, nil
	}
}

func lower(words []string) []string {
	var all []string
	for _, w := range words {
		all = append(all, strings.ToLower(w))
	}
	return all
}

var cronPart = lazyregexp.New(`^(\*|[a-z0-9]+)(?:-([a-z0-9]+))?(?:/([0-9]{1,3}))?$`)

// span is a-b/step of a field; star where it is *.
func span(part string, low, high int, names []string) (a, b, step int, star bool, err error) {
	m := cronPart().FindStringSubmatch(part)
	if m == nil || m[1] == "*" && m[2] != "" {
		return 0, 0, 0, false, fmt.Errorf("%q is not understood", part)
	}
	number := func(s string) (int, error) {
		for i, name := range names {
			if s == name {
				return i + low, nil
			}
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%q is not from %d to %d", s, low, high)
		}
		return n, nil
	}
	a, b, step, star = low, high, 1, m[1] == "*"
	if !star {
		if a, err = number(m[1]); err != nil {
			return
		}
		if b = a; m[2] != "" {
			if b, err = number(m[2]); err != nil {
				return
			}
		} else if m[3] != "" {
			b = high
		}
	}
	if m[3] != "" {
		if step, err = strconv.Atoi(m[3]); err != nil || step == 0 {
			return 0, 0, 0, false, fmt.Errorf("%q is no step", m[3])
		}
	}
	if b < a {
		return 0, 0, 0, false, fmt.Errorf("%q goes backwards", part)
	}
	return a, b, step, star, nil
}

// field is one in systemd's words.
func field(s string, low, high int, names []string) (string, error) {
	var all []string
	for part := range strings.SplitSeq(s, ",") {
		a, b, step, star, err := span(part, low, high, names)
		switch {
		case err != nil:
			return "", err
		case star && step == 1:
			return "*", nil
		case star:
			all = append(all, fmt.Sprintf("%d/%d", a, step))
		case a == b:
			all = append(all, strconv.Itoa(a))
		case step == 1:
			all = append(all, fmt.Sprintf("%d..%d", a, b))
		default:
			all = append(all, fmt.Sprintf("%d..%d/%d", a, b, step))
		}
	}
	return strings.Join(all, ","), nil
}

// dayNames lists the weekdays, "" for every one.
func dayNames(s string) (string, error) {
	var on [7]bool
	for part := range strings.SplitSeq(s, ",") {
		a, b, step, star, err := span(part, 0, 7, lower(weekdays))
		if err != nil {
			return "", err
		}
		if star && step == 1 {
			return "", nil
		}
		if star {
			b = 6
		}
		for d := a; d <= b; d += step {
			on[d%7] = true
		}
	}
	var names []string
	for d, yes := range on {
		if yes {
			names = append(names, weekdays[d])
		}
	}
	if len(names) == 7 {
		return "", nil
	}
	return strings.Join(names, ","), nil
}
