package secrets

import (
	"strings"
	"time"
)

// templates renders all of one task's templates within one deadline and one budget of output (S8): a job
// with hundreds of them gets no more than a job with a few. Not for use by two goroutines.
type templates struct {
	run   *templateRun
	time  time.Duration // left
	room  int           // bytes of output left
	large turn
}

func newTemplates() *templates {
	t := &templates{run: newTemplateRun(time.Time{}), time: maxTemplatesTime, room: maxTemplatesOutput}
	t.run.large = &t.large
	return t
}

// close gives back what other tasks wait for.
func (t *templates) close() { t.large.giveBack() }

// check finds a template's mistakes that show without data. What it quotes is the job's text.
func (t *templates) check(src string) error {
	_, err := parseTemplate(src, t.run)
	return err
}

// render renders src over data, which is a copy of its own: some functions change what they are given. The
// error says where the template went wrong and, as far as that quotes no data, how.
func (t *templates) render(src string, data func() map[string]any) (Value, error) {
	start := time.Now()
	r := t.run
	r.calls = 0
	r.deadline, r.late = start.Add(maxTemplateTime), errTemplateTime
	if t.time < maxTemplateTime {
		r.deadline, r.late = start.Add(t.time), errTemplatesTime
	}
	r.room, r.full = maxTemplateOutput, errTemplateOutput
	if t.room < maxTemplateOutput {
		r.room, r.full = t.room, errTemplatesOutput
	}
	v, err := r.render(src, data())
	t.time -= time.Since(start)
	t.room -= v.Len()
	return v, err
}

// largeTurn is had by the one task whose templates make much.
var largeTurn = make(chan struct{}, 1)

// turn is a task's hold on largeTurn. The zero value has none.
type turn struct{ has bool }

// take waits for the turn until the deadline.
func (t *turn) take(deadline time.Time) error {
	if t.has {
		return nil
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case largeTurn <- struct{}{}:
		t.has = true
		return nil
	case <-timer.C:
		return errTemplatesBusy
	}
}

func (t *turn) giveBack() {
	if t.has {
		t.has = false
		<-largeTurn
	}
}

// actionBytes is how much of a template is between {{ and }}: what is parsed, and not only copied. It is at
// least what text/template takes for that.
func actionBytes(src string) (n int) {
	for {
		start := strings.Index(src, "{{")
		if start < 0 {
			return n
		}
		src = src[start:]
		end := actionEnd(src)
		n += end
		src = src[end:]
	}
}

// actionEnd is where the action that src begins with ends: at a }} that is in no text and no comment.
func actionEnd(src string) int {
	rest := strings.TrimLeft(strings.TrimPrefix(src[2:], "-"), " \t\r\n")
	if strings.HasPrefix(rest, "/*") {
		if end := strings.Index(src, "*/"); end >= 0 {
			return end + 2
		}
		return len(src)
	}
	for i := 2; i < len(src); i++ {
		switch c := src[i]; c {
		case '}':
			if strings.HasPrefix(src[i:], "}}") {
				return i + 2
			}
		case '`':
			end := strings.IndexByte(src[i+1:], '`')
			if end < 0 {
				return len(src)
			}
			i += end + 1
		case '"', '\'':
			for i++; i < len(src) && src[i] != c; i++ {
				if src[i] == '\\' {
					i++
				}
			}
		}
	}
	return len(src)
}
