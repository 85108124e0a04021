package pulse

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestNext(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ period, now, want time.Duration }{
		{2, 0, 2}, {2, 1, 1}, {2, 2, 2}, {5, 12, 3},
	} {
		if got := next(tc.period, tc.now); got != tc.want {
			t.Errorf("next(%d, %d) is %d, want %d", tc.period, tc.now, got, tc.want)
		}
	}
}

// Tickers that were started at different times tick at the same.
func TestTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ticks [3][]time.Time
		var all sync.WaitGroup
		for i, period := range []time.Duration{2, 2, 4} {
			ticker := NewTicker(period * time.Second)
			defer ticker.Stop()
			all.Go(func() {
				for range 12 / period {
					ticks[i] = append(ticks[i], <-ticker.C)
				}
			})
			time.Sleep(700 * time.Millisecond)
		}
		all.Wait()
		for i, at := range ticks[0][2:] {
			if !slices.Contains(ticks[1], at) {
				t.Errorf("tick %d of the first ticker, %v, is none of the second: %v", i, at, ticks[1])
			}
		}
		for _, at := range ticks[2] {
			if !slices.Contains(ticks[0], at) && at.Before(ticks[0][5]) {
				t.Errorf("%v is no tick of the first: %v", at, ticks[0])
			}
		}
	})
}

// Who does not take a tick finds one, not all; who has stopped finds none.
func TestSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := NewTicker(time.Second)
		time.Sleep(10 * time.Second)
		<-a.C
		select {
		case <-a.C:
			t.Error("two ticks waited")
		default:
		}
		a.Stop()
		time.Sleep(10 * time.Second)
		select {
		case <-a.C:
			t.Error("it ticks after Stop")
		default:
		}
	})
}
