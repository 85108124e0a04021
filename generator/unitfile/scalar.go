package unitfile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseBool reads a boolean as systemd.syntax(7) has it: 1, yes, y, true, t, on
// and 0, no, n, false, f, off, in upper or lower case.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither yes nor no", s)
}

// sizeUnits are the suffixes of parse_size() in systemd's parse-util.c.
var sizeUnits = []struct {
	suffix string
	factor uint64
}{
	{"E", 1 << 60}, {"P", 1 << 50}, {"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"B", 1}, {"", 1},
}

// ParseSize reads a number of bytes as systemd does for MemoryMax= and its
// like: K, M, G, T, P, E are powers of 1024, fractions ("1.5G") and falling
// sums ("1G 512M") are allowed. "infinity" and percentages are not sizes.
func ParseSize(s string) (uint64, error) {
	bad := func() (uint64, error) {
		return 0, fmt.Errorf("%q is no size such as 512M or 1.5G", s)
	}
	tooLarge := func() (uint64, error) {
		return 0, fmt.Errorf("%q is too large", s)
	}
	var total uint64
	units := sizeUnits
	rest := strings.Trim(s, whitespace)
	if rest == "" {
		return bad()
	}
	for rest != "" {
		rest = strings.TrimLeft(rest, whitespace)
		n, after, err := cutNumber(rest)
		if after == rest {
			return bad()
		} else if err != nil {
			return tooLarge()
		}
		rest = after
		frac := 0.0
		if strings.HasPrefix(rest, ".") {
			rest = rest[1:]
			for scale := 0.1; rest != "" && '0' <= rest[0] && rest[0] <= '9'; scale /= 10 {
				frac += scale * float64(rest[0]-'0')
				rest = rest[1:]
			}
		}
		rest = strings.TrimLeft(rest, whitespace)
		i := 0
		for i < len(units) && !strings.HasPrefix(rest, units[i].suffix) {
			i++
		}
		if i == len(units) {
			return bad()
		}
		factor := units[i].factor
		if n > math.MaxUint64/factor {
			return tooLarge()
		}
		part := n * factor
		if extra := uint64(frac * float64(factor)); extra <= math.MaxUint64-part {
			part += extra
		} else {
			return tooLarge()
		}
		if part > math.MaxUint64-total {
			return tooLarge()
		}
		total += part
		rest = rest[len(units[i].suffix):]
		units = units[i+1:]
	}
	return total, nil
}

// FormatSize writes a number of bytes for people, in the units of ParseSize:
// "16G", "79.65G". It is rounded to four digits.
func FormatSize(n uint64) string {
	for _, u := range sizeUnits {
		if n >= u.factor && u.factor > 1 {
			return strconv.FormatFloat(float64(n)/float64(u.factor), 'g', 4, 64) + u.suffix
		}
	}
	return strconv.FormatUint(n, 10) + "B"
}

// cutNumber cuts decimal digits off s. err: they are more than 64 bits hold.
func cutNumber(s string) (n uint64, rest string, err error) {
	i := 0
	for ; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
		d := uint64(s[i] - '0')
		if n > (math.MaxUint64-d)/10 {
			err = fmt.Errorf("more than 64 bits")
		}
		n = n*10 + d
	}
	return n, s[i:], err
}
