package mountinfo

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestParse(t *testing.T) {
	got, err := parse(strings.NewReader(
		"22 27 0:21 / /proc rw,relatime - proc proc rw\n" +
			`42 27 254:0 /a\040b /var\134lib rw shared:1 master:2 - fuse.live live ro,user_id=0` + "\n"))
	must.NoError(t, err)
	must.Eq(t, []Mount{
		{Device: "0:21", Root: "/", Point: "/proc", Type: "proc"},
		{Device: "254:0", Root: "/a b", Point: `/var\lib`, Type: "fuse.live", Shared: true},
	}, got)

	_, err = parse(strings.NewReader("nonsense\n"))
	must.Error(t, err)
}

func TestEachSeesThisNamespace(t *testing.T) {
	n := 0
	must.NoError(t, Each(func(m Mount) {
		if m.Point == "/proc" && m.Type == "proc" {
			n++
		}
	}))
	must.Positive(t, n)
}

func FuzzParse(f *testing.F) {
	f.Add("22 27 0:21 / /proc rw,relatime - proc proc rw")
	f.Add(`1 2 3 \040 \ a b - `)
	f.Fuzz(func(t *testing.T, s string) { _, _ = parse(strings.NewReader(s)) })
}
