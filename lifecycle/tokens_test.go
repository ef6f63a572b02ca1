package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func tokenNamed(id string) *tokenState {
	return &tokenState{tok: secrets.Token{ID: id, Value: secrets.TextValue("value-" + id)}}
}

// What is due with the token in use, and when to look again: a replacement goes before a renewal, that before a
// check, and nothing is begun while a request is under way.
func TestTokenStep(t *testing.T) {
	soon, later := epoch.Add(time.Minute), epoch.Add(time.Hour)
	for name, tt := range map[string]struct {
		source journal.TokenSource
		l      tokenState
		busy   bool
		want   tokenStep
		next   time.Time
	}{
		"nothing is due":        {journal.FromIdentity, tokenState{renew: later, check: soon}, false, tokenWaits, soon},
		"it never ends":         {journal.FromIdentity, tokenState{}, false, tokenWaits, time.Time{}},
		"to check":              {journal.FromIdentity, tokenState{renew: later, check: epoch}, false, tokenCheck, later},
		"to renew":              {journal.FromIdentity, tokenState{renew: epoch, check: epoch}, false, tokenRenew, time.Time{}},
		"to replace":            {journal.FromIdentity, tokenState{rotate: epoch, renew: epoch, check: epoch}, false, tokenReplace, time.Time{}},
		"busy":                  {journal.FromIdentity, tokenState{rotate: epoch, renew: epoch}, true, tokenWaits, time.Time{}},
		"at its maximum":        {journal.FromIdentity, tokenState{firstTTL: 3 * time.Hour, ends: epoch.Add(3 * time.Hour)}, false, tokenWaits, epoch.Add(2 * time.Hour)},
		"at its end":            {journal.FromIdentity, tokenState{firstTTL: time.Hour, ends: epoch.Add(time.Second)}, false, tokenReplace, time.Time{}},
		"the end of Nomad's":    {journal.FromVaultBlock, tokenState{ends: epoch.Add(time.Second), check: soon}, false, tokenWaits, soon},
		"the end of the node's": {journal.FromNodeFile, tokenState{ends: epoch, check: soon}, false, tokenWaits, soon},
	} {
		t.Run(name, func(t *testing.T) {
			tk := tokens{identity: &identity{source: tt.source}, current: &tt.l, busy: tt.busy}
			got, next := tk.step(epoch, func() time.Duration { return time.Minute })
			require.Equal(t, tt.want, got)
			require.True(t, tt.next.Equal(next), "%v, not %v", next, tt.next)
		})
	}
}

// A token that the server says ends sooner than was granted is renewed sooner, or replaced sooner where it can be renewed no more.
// A login that has failed, or is due, is not pulled forward by that.
func TestTokenEndsSooner(t *testing.T) {
	granted, seen := epoch.Add(3*time.Hour), epoch.Add(30*time.Minute)
	renew, rotate := epoch.Add(90*time.Minute), epoch.Add(2*time.Hour)
	const first = 3 * time.Hour
	for name, tt := range map[string]struct {
		l    tokenState
		seen time.Time
		want tokenStep
		next time.Time
	}{
		"it is renewed":                {tokenState{renew: renew}, seen, tokenWaits, epoch.Add(15 * time.Minute)},
		"it is replaced":               {tokenState{rotate: rotate, firstTTL: 40 * time.Minute}, seen, tokenWaits, seen.Add(-40 * time.Minute / 3)},
		"it is replaced at once":       {tokenState{rotate: rotate, firstTTL: first}, seen, tokenReplace, time.Time{}},
		"it ends as was granted":       {tokenState{rotate: rotate, firstTTL: first}, granted.Add(-clockSlack), tokenWaits, rotate},
		"its end is not known":         {tokenState{rotate: rotate, firstTTL: first}, time.Time{}, tokenWaits, rotate},
		"it ends later":                {tokenState{rotate: rotate, firstTTL: first}, granted.Add(time.Hour), tokenWaits, rotate},
		"a failed login waits":         {tokenState{rotate: rotate, firstTTL: first, fails: 1}, seen, tokenWaits, rotate},
		"the login in its place waits": {tokenState{rotate: rotate, firstTTL: first, lost: true}, seen, tokenWaits, rotate},
		"it has ended":                 {tokenState{rotate: rotate, firstTTL: first}, epoch, tokenReplace, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.l.ends = granted
			tt.l.seen(epoch, tt.seen, 0)
			require.Equal(t, tt.seen, tt.l.ends)
			tk := tokens{identity: &identity{source: journal.FromIdentity}, current: &tt.l}
			step, next := tk.step(epoch, func() time.Duration { return time.Minute })
			require.Equal(t, tt.want, step)
			require.Equal(t, tt.next, next)
		})
	}
}

// The failures of a token's renewals are none of the logins that follow.
func TestRenewalsOfATokenEnd(t *testing.T) {
	l := tokenState{renew: epoch, fails: 2, unanswered: true, firstTTL: time.Hour, ends: epoch.Add(time.Hour)}
	l.endRenewals()
	tk := tokens{identity: &identity{source: journal.FromIdentity}, current: &l}
	_, next := tk.step(epoch, func() time.Duration { return time.Minute })
	require.Equal(t, epoch.Add(40*time.Minute), next)
	require.False(t, l.unanswered, "nothing waits for the server's return")
	l.seen(epoch, epoch.Add(50*time.Minute), 0)
	_, next = tk.step(epoch, func() time.Duration { return time.Minute })
	require.Equal(t, epoch.Add(30*time.Minute), next)
}

// Only a token in a file that somebody else replaces is looked for again, and not at each step of the loop.
func TestTokenReload(t *testing.T) {
	for _, id := range []*identity{{source: journal.FromIdentity, file: "jwt"}, {source: journal.FromVaultBlock, env: "token"}} {
		tk := tokens{identity: id}
		isDue, next := tk.reloadDue(epoch)
		require.False(t, isDue)
		require.Zero(t, next)
	}
	for _, id := range []*identity{{source: journal.FromNodeFile}, {source: journal.FromVaultBlock, file: vaultTokenFile}} {
		tk := tokens{identity: id}
		isDue, next := tk.reloadDue(epoch)
		require.True(t, isDue, "at once")
		require.Equal(t, epoch.Add(reloadEvery), next)
		isDue, next = tk.reloadDue(epoch.Add(reloadEvery - 1))
		require.False(t, isDue)
		require.Equal(t, epoch.Add(reloadEvery), next)
		isDue, _ = tk.reloadDue(epoch.Add(reloadEvery))
		require.True(t, isDue)
	}
}

// The polls get the token in use, and none while there is none that is good.
func TestTokenInUse(t *testing.T) {
	tk := tokens{identity: &identity{source: journal.FromIdentity}}
	_, ok := tk.inUse()
	require.False(t, ok)
	tk.use(tokenNamed("one"))
	tok, ok := tk.inUse()
	require.True(t, ok)
	require.Equal(t, "value-one", tok.Value.Text())

	tk.current.renew, tk.current.check = epoch, epoch
	tk.lose(epoch)
	_, ok = tk.inUse()
	require.False(t, ok, "the server does not know it")
	step, _ := tk.step(epoch, nil)
	require.Equal(t, tokenReplace, step, "one of ours at once")
	tk.use(tokenNamed("two"))
	tok, _ = tk.inUse()
	require.Equal(t, "value-two", tok.Value.Text())

	theirs := tokens{identity: &identity{source: journal.FromVaultBlock}}
	theirs.use(tokenNamed("theirs"))
	theirs.current.renew = epoch
	theirs.lose(epoch)
	step, next := theirs.step(epoch, nil)
	require.Equal(t, tokenWaits, step, "for its owner")
	require.Zero(t, next)
}

// An old token stays while something depends on it; then it is given up for revocation, or has ended by itself.
func TestOldTokens(t *testing.T) {
	tk := tokens{identity: &identity{source: journal.FromIdentity}}
	tk.use(tokenNamed("now"))
	used, unused, over := tokenNamed("used"), tokenNamed("unused"), tokenNamed("over")
	used.ends, unused.ends, over.ends = epoch.Add(time.Hour), epoch.Add(time.Hour), epoch
	for _, l := range []*tokenState{used, unused, over} {
		tk.retire(l)
		require.Same(t, l, tk.of(l.tok.ID))
	}
	require.Same(t, tk.current, tk.of("now"))
	require.Same(t, tk.current, tk.of("unknown"))

	gone, toRevoke, next := tk.takeUnused(epoch, func(l *tokenState) bool { return l == used })
	require.Equal(t, []*tokenState{over}, gone)
	require.Equal(t, []*tokenState{unused}, toRevoke)
	require.Equal(t, used.ends, next)
	require.Equal(t, []*tokenState{used}, tk.old)
	require.Same(t, tk.current, tk.of("unused"))

	require.True(t, tk.forgettable(used))
	require.False(t, tk.forgettable(tokenNamed("now")), "the new one is in its place")
}
