package unitfile

import (
	"math"
	"testing"
)

func TestParseBool(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1", "yes", "Y", "TRUE", "t", "On"} {
		if v, err := ParseBool(s); err != nil || !v {
			t.Errorf("ParseBool(%q) = %v, %v", s, v, err)
		}
	}
	for _, s := range []string{"0", "no", "N", "FALSE", "f", "Off"} {
		if v, err := ParseBool(s); err != nil || v {
			t.Errorf("ParseBool(%q) = %v, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "2", "ye", "enabled", " yes", "-1"} {
		if v, err := ParseBool(s); err == nil {
			t.Errorf("ParseBool(%q) = %v, want an error", s, v)
		}
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]uint64{
		"0": 0, "1": 1, "512": 512, "4B": 4, "1K": 1 << 10, "3M": 3 << 20, "40G": 40 << 30, "2T": 2 << 40, "1P": 1 << 50, "15E": 15 << 60,
		"1.5G": 3 << 29, "0.25K": 256, "10.M": 10 << 20, "1.5": 1, " 8 M ": 8 << 20, "1G512M": 3 << 29, "1G 512M 1": 3<<29 + 1,
		"18446744073709551615": math.MaxUint64, "15.5E": 31 << 59,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "G", "infinity", "50%", "-1", "1g", "1KB", "1Gi", ".5G", "1e3", "0x10", "512M1G", "1 2", "1..5G",
		"16E", "18446744073709551616", "99999999999999999999999E", "15E2P1023T1P", "15.9999999999999999999E1024P",
	} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"Count", "Simulate", "Instances", "EnabledVariable", "Enabled", "NUMA", "Per", "MinMemory"}
	for word, want := range map[string]string{
		"count": "Count", "Cuont": "Count", "Simulated": "Simulate", "Instance": "Instances", "Enable": "Enabled", "Numa": "NUMA",
		"per": "Per", "Memory": "", "ExecStart": "", "": "", "X": "", "MinMem": "", "MinMemry": "MinMemory",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
	if got := Nearest("x", nil); got != "" {
		t.Errorf("Nearest without known words = %q", got)
	}
}

func TestFormatSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1 << 10: "1K", 16 << 30: "16G", 999 << 30: "999G", 85520809984: "79.65G", 3 << 29: "1.5G", 1 << 60: "1E", math.MaxUint64: "16E",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
