package gpu

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// list reads GPUs from words: PCI bus, "=" and UUID, "!" and fault.
func list(text string) []GPU {
	var gpus []GPU
	for i, word := range strings.Fields(text) {
		word, fault, _ := strings.Cut(word, "!")
		bus, uuid, _ := strings.Cut(word, "=")
		gpus = append(gpus, GPU{Index: i, PCI: "0000:" + bus + ":00.0", UUID: uuid, Fault: fault})
	}
	return gpus
}

func words(gpus []GPU) string {
	var b strings.Builder
	for i, g := range gpus {
		if g.Index != i {
			fmt.Fprintf(&b, "[%d at %d] ", g.Index, i)
		}
		b.WriteString(strings.Split(g.PCI, ":")[1])
		if g.UUID != "" {
			b.WriteString("=" + g.UUID)
		}
		if g.Fault != "" {
			b.WriteString("!" + strings.ReplaceAll(g.Fault, Left, "left"))
		}
		b.WriteString(" ")
	}
	return strings.TrimSpace(b.String())
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, found, earlier, want string }{
		{"a boot", "17=a 18=b", "", "17=a 18=b"},
		{"nothing changed", "17=a 18=b", "17=a 18=b", "17=a 18=b"},
		{"one in the middle is gone", "17=a 19=c", "17=a 18=b 19=c", "17=a 18=b!left 19=c"},
		{"and is back", "17=a 18=b 19=c", "17=a 18=b!left 19=c", "17=a 18=b 19=c"},
		{"back in another slot", "17=a 19=c 2a=b", "17=a 18=b!left 19=c", "17=a 2a=b 19=c"},
		{"another card in the slot", "17=a 18=x", "17=a 18=b", "17=a 18=x"},
		{"two cards swapped", "17=b 18=a", "17=a 18=b", "18=a 17=b"},
		{"a new one before the others", "16=n 17=a 18=b", "17=a 18=b", "17=a 18=b 16=n"},
		{"one that does not answer keeps what is known", "17=a 18!dead", "17=a 18=b", "17=a 18=b!dead"},
		{"one that never answered", "17=a 18!dead", "", "17=a 18!dead"},
		{"it answers at last", "17=a 18=b", "17=a 18!dead", "17=a 18=b"},
		{"all are gone", "", "17=a 18=b", "17=a!left 18=b!left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			earlier := list(c.earlier)
			got := words(Number(list(c.found), earlier))
			if got != c.want {
				t.Errorf("found %q after %q is numbered %q, want %q", c.found, c.earlier, got, c.want)
			}
			if diff := cmp.Diff(list(c.earlier), earlier); diff != "" {
				t.Errorf("the earlier ones were changed:\n%s", diff)
			}
		})
	}
}

func TestNumberForgetsSimulated(t *testing.T) {
	t.Parallel()
	earlier := Fill(list("17=a"), 3)
	if got := words(Number(list("17=a"), earlier)); got != "17=a" {
		t.Errorf("numbered %q", got)
	}
}

// GPUs that no PCI bus shows are told apart by their nodes.
func TestNumberByNode(t *testing.T) {
	t.Parallel()
	earlier := []GPU{{Index: 0, Node: "/dev/nvidia1", Minor: 1}, {Index: 1, Node: "/dev/nvidia4", Minor: 4}}
	got := Number([]GPU{{Node: "/dev/nvidia0"}, {Node: "/dev/nvidia4", Minor: 4}}, earlier)
	want := []GPU{
		{Index: 0, Node: "/dev/nvidia1", Minor: 1, Fault: Left},
		{Index: 1, Node: "/dev/nvidia4", Minor: 4},
		{Index: 2, Node: "/dev/nvidia0"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
