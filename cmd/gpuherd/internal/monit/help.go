package monit

import "strings"

const helpText = `Workers
  j k, ↓ ↑          next, previous; g and G: first, last
  Enter             everything of the worker
  r                 restart it, after a question
  s                 stop it, or start it where it is down, after a question
  + -               one worker more, or less, on each device, after a question

Pane below
  l                 the worker's log; once more: on the whole screen
  e                 what happened to the workers and GPUs; once more: the log
  PgUp PgDn         scroll; on the whole screen j k g G too
  f                 follow new lines, or stop to
  / n N             search; the next older, the next newer line
  &                 only lines with a text; an empty one ends it
  w                 wrap long lines, or cut them

  Esc               back: ends search and filter, then closes
  ?                 this
  q                 quit; back from details and help
  Ctrl+C Ctrl+Z     quit, suspend

A text to search for has to be all in lower case to find upper case too.
CPU is that of the last seconds, 100% is one core. VRAM is the memory that the
GPU has. What is not known is -. Figures of GPUs come from gpuherd-monitor, or
from Redis where it does not answer; all else comes without the two.`

func helpLines() []Line {
	var lines []Line
	for line := range strings.SplitSeq(helpText, "\n") {
		lines = append(lines, Line{Text: line})
	}
	return lines
}
