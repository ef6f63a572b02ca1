package driver

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// What is said to have room can be started, and little more than that cannot (S7).
func TestEnvRoomIsTheKernels(t *testing.T) {
	own := map[string]string{"OWN": strings.Repeat("o", 100_000), "PATH": "/bin"}
	args := []any{strings.Repeat("a", 100_000), "b"}
	tk := &task{
		cfg:     &drivers.TaskConfig{Env: own},
		options: map[string]any{"command": "/bin/true", "args": args}, runner: &processes{},
	}
	room := tk.EnvRoom()
	must.Positive(t, room)

	start := func(bytes int) error {
		cmd := exec.Command("/bin/true", args[0].(string), "b")
		for name, value := range own {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		for i := 0; bytes > 0; i++ { // each counts as a variable of a secret does
			n := min(bytes, 100_000)
			bytes -= n
			head := "V" + string(rune('A'+i/26)) + string(rune('A'+i%26)) + "="
			cmd.Env = append(cmd.Env, head+strings.Repeat("x", max(0, n-len(head)-perString)))
		}
		return cmd.Run()
	}
	must.NoError(t, start(room))
	err := start(room + 2*spareRoom)
	must.True(t, errors.Is(err, unix.E2BIG), must.Sprint(err))
}

func TestEnvRoomOfContainers(t *testing.T) {
	room := func(options map[string]any) int {
		tk := &task{cfg: &drivers.TaskConfig{}, options: options, runner: &containers{}}
		return tk.EnvRoom()
	}
	usual := room(nil)
	must.EqOp(t, 2<<20-spareRoom-dockerRoom, usual)
	must.EqOp(t, usual-(3+perString)-(4+perString), room(map[string]any{"command": "abc", "args": []any{"defg"}}))
	ulimit := func(v string) map[string]any { return map[string]any{"ulimit": []any{map[string]any{"stack": v}}} }
	must.EqOp(t, 4<<20-spareRoom-dockerRoom, room(ulimit("16777216:33554432")))
	must.EqOp(t, mostArgs-spareRoom-dockerRoom, room(ulimit("-1")))
	must.EqOp(t, leastArgs-spareRoom-dockerRoom, room(ulimit("4096")))
}
