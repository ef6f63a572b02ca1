package pull

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestCheckServer(t *testing.T) {
	const digest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for _, same := range []struct{ image, server string }{
		{"reg.example.com/team/app:1", "reg.example.com"},
		{"reg.example.com/team/app:1", "https://reg.example.com/v2/"},
		{"https://reg.example.com/team/app:1", "http://reg.example.com"},
		{"reg.example.com:443/app", "reg.example.com"},
		{"reg.example.com/app", "reg.example.com:443"},
		{"reg.example.com:5000/app" + digest, "reg.example.com:5000"},
		{"127.0.0.1:5000/app:1", "127.0.0.1:5000"},
		{"[::1]:5000/app:1", "[::1]:5000"},
		{"localhost/app", "localhost"},
		{"Reg.example.com/app", "reg.example.com"},
		{"busybox", "docker.io"},
		{"busybox:1", "https://index.docker.io/v1/"},
		{"team/app:1", "index.docker.io"},
		{"docker.io/library/busybox", "docker.io"},
	} {
		must.NoError(t, CheckServer(same.image, same.server), must.Sprintf("%+v", same))
	}
	for _, other := range []struct{ image, server, want string }{
		{"reg.example.com/app", "other.example.com", `server_address "other.example.com" is another registry than the image's, which is reg.example.com;`},
		{"reg.example.com:5000/app", "reg.example.com", "which is reg.example.com:5000"},
		{"reg.example.com/app", "reg.example.com:5000", "which is reg.example.com;"},
		{"reg.example.com.evil.org/app", "reg.example.com", "which is reg.example.com.evil.org"},
		{"evil.org/reg.example.com/app", "reg.example.com", "which is evil.org"},
		{"app", "reg.example.com", "which is docker.io"},
		{"reg/app", "reg.example.com", "which is docker.io"},
		{"reg/app", "reg", "it is a user of Docker Hub's"},
		{"busybox", "", "not a registry's address"},
		{"busybox", "https://", "not a registry's address"},
		{"busybox", "user:pass@reg.example.com", "not a registry's address"},
		{"busybox", "reg .example.com", "not a registry's address"},
		{"sha256" + digest[7:], "reg.example.com", "which is docker.io"},
		{digest[len(digest)-64:], "docker.io", "is not the name of one in a registry"},
	} {
		must.ErrorContains(t, CheckServer(other.image, other.server), other.want, must.Sprintf("%+v", other))
	}
}

// The wrapped driver asks the registry for these at each start, whatever the node has.
func TestAlways(t *testing.T) {
	for image, want := range map[string]bool{
		"app": true, "reg.example.com:5000/app": true, "app:latest": true, "https://reg.example.com/app": true, "app:1": false,
		"app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": false, "": false,
	} {
		must.EqOp(t, want, Always(image), must.Sprint(image))
	}
}
