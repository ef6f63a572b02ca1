package driver

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/shoenig/test/must"
)

// Starts that come while a look is under way share the next one: none gets a look that began before it asked.
func TestLooksAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l looks
		var begun atomic.Int64
		goOn := make(chan struct{})
		read := func() (map[int][]string, error) {
			n := begun.Add(1)
			<-goOn
			return map[int][]string{int(n): nil}, nil
		}
		got := make(chan int, 10)
		ask := func() {
			commands, err := l.commands(read)
			must.NoError(t, err)
			for n := range commands {
				got <- n
			}
		}
		go ask()
		synctest.Wait() // the first look is under way
		for range 5 {
			go ask()
		}
		synctest.Wait()
		must.Eq(t, 1, begun.Load())
		goOn <- struct{}{}
		must.Eq(t, 1, <-got)
		synctest.Wait()
		go ask() // while the second is
		synctest.Wait()
		goOn <- struct{}{}
		for range 5 {
			must.Eq(t, 2, <-got)
		}
		goOn <- struct{}{}
		must.Eq(t, 3, <-got)
		synctest.Wait()
		must.Eq(t, 3, begun.Load())
	})
}

// A look that failed is nobody's after.
func TestLooksFail(t *testing.T) {
	var l looks
	_, err := l.commands(func() (map[int][]string, error) { return nil, errors.New("no /proc") })
	must.ErrorContains(t, err, "no /proc")
	commands, err := l.commands(func() (map[int][]string, error) { return map[int][]string{1: {"init"}}, nil })
	must.NoError(t, err)
	must.MapLen(t, 1, commands)
}
