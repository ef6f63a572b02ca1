package pull

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

func yes() bool { return true }

// pullOf is a pull that is needed, and goes on until it is released.
func pullOf(image string, with Credentials) Pull {
	return Pull{Image: image, With: with, Needed: yes, Over: func(context.Context) bool { return false }}
}

var a, b = CredentialsOf("a", "x", ""), CredentialsOf("b", "x", "")

// One pull with other credentials waits, one with the same does not, nor does one of another image.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{}
		took := make(chan string, 10)
		take := func(name, image string, with Credentials) (release func()) {
			var done func()
			ready := make(chan struct{})
			go func() {
				var err error
				if done, err = turns.Take(t.Context(), pullOf(image, with)); err != nil {
					t.Error(err)
				}
				close(ready)
				took <- name
			}()
			synctest.Wait()
			return func() { <-ready; done(); done(); synctest.Wait() }
		}
		now := func() (names []string) {
			for {
				select {
				case name := <-took:
					names = append(names, name)
				default:
					return names
				}
			}
		}
		first := take("first a", "app:1", a)
		second := take("second a", "app:1", a)
		take("another image", "app:2", b)()
		must.SliceContainsAll(t, []string{"first a", "second a", "another image"}, now())

		firstB := take("first b", "app:1", b)
		late := take("late a", "app:1", a)
		secondB := take("second b", "app:1", b)
		must.SliceEmpty(t, now(), must.Sprint("who waits is not overtaken"))
		first()
		must.SliceEmpty(t, now())
		second()
		must.SliceContainsAll(t, []string{"first b", "second b"}, now())
		firstB()
		must.SliceEmpty(t, now())
		secondB()
		must.Eq(t, []string{"late a"}, now())
		late()
		must.MapEmpty(t, turns.images)
	})
}

// What is on the node, and is not asked for anew, waits for nobody.
func TestTurnNotNeeded(t *testing.T) {
	turns := &Turns{}
	first, second := pullOf("app:1", a), pullOf("app:1", b)
	first.Needed = func() bool { t.Error("it had not to wait"); return true }
	second.Needed = func() bool { return false }
	release, err := turns.Take(t.Context(), first)
	must.NoError(t, err)
	other, err := turns.Take(t.Context(), second)
	must.NoError(t, err)
	other()
	release()
	must.MapEmpty(t, turns.images)
}

// The end of the plugin ends a wait, and leaves nobody behind.
func TestTurnIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{}
		release, err := turns.Take(t.Context(), pullOf("app:1", a))
		must.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = turns.Take(ctx, pullOf("app:1", b))
		must.ErrorIs(t, err, context.DeadlineExceeded)
		release()
		must.MapEmpty(t, turns.images)
	})
}

// A pull that is over gives the turn to who waits, also if what comes after it never ends. Nobody is asked before
// somebody waits.
func TestTurnEndsWithThePull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{}
		began, asked, waits := time.Now(), 0, false
		hangs := pullOf("app:1", a)
		hangs.Over = func(context.Context) bool {
			asked++
			must.True(t, waits)
			return time.Since(began) > time.Hour+10*time.Second
		}
		release, err := turns.Take(t.Context(), hangs)
		must.NoError(t, err)
		time.Sleep(time.Hour)
		waits = true
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				done, err := turns.Take(t.Context(), pullOf("app:1", b))
				must.NoError(t, err)
				must.Less(t, time.Hour+15*time.Second, time.Since(began))
				time.Sleep(time.Minute)
				done()
			})
		}
		all.Wait()
		must.Between(t, 5, asked, 15) // by the first in the line alone
		release()                     // it is nobody's turn that ends so
		must.MapEmpty(t, turns.images)
	})
}

// However pulls come and give up, those at one time have the same credentials, and all come to their turn.
func TestTurnsAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{}
		var mu sync.Mutex
		under := map[Credentials]int{}
		var all sync.WaitGroup
		for range 300 {
			all.Go(func() {
				time.Sleep(rand.N(time.Minute))
				with := []Credentials{a, b, CredentialsOf("", "", "")}[rand.N(3)]
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(10*time.Minute)+time.Second)
				defer cancel()
				release, err := turns.Take(ctx, pullOf("app:1", with))
				if err != nil {
					return
				}
				mu.Lock()
				under[with]++
				if len(under) > 1 {
					t.Errorf("%d kinds of credentials at one time", len(under))
				}
				mu.Unlock()
				time.Sleep(rand.N(10 * time.Second))
				mu.Lock()
				if under[with]--; under[with] == 0 {
					delete(under, with)
				}
				mu.Unlock()
				release()
			})
		}
		all.Wait()
		must.MapEmpty(t, turns.images)
	})
}
