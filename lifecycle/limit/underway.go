package limit

import (
	"slices"
	"time"
)

// underWay are the requests for a server's own work that have no answer yet, by when they were sent. Answers tell how busy a server
// was when it was asked; these tell how busy it is.
type underWay []*time.Time

func (u *underWay) add(sent time.Time) *time.Time {
	*u = append(*u, &sent)
	return &sent
}

func (u *underWay) remove(sent *time.Time) {
	if i := slices.Index(*u, sent); i >= 0 {
		*u = slices.Delete(*u, i, i+1)
	}
}

// waited is how long recentFew of them have waited at the least, of those that were sent after a moment; zero if there are fewer.
func (u *underWay) waited(now, after time.Time) time.Duration {
	i := len(*u) - recentFew
	if i < 0 || !(*u)[i].After(after) {
		return 0
	}
	return now.Sub(*(*u)[i])
}
