package launcher

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/shoenig/test/must"
)

// L1: the command is exactly the one that Docker would have run. The engine itself is asked, for
// each way in which an image and a task can say what to run.
func TestCommandIsDockers(t *testing.T) {
	e := newEngine(t)
	var tasks []TaskCommand
	for _, entrypoint := range [][]string{nil, {}, {""}, {"/te"}, {"te", "1"}, {"", "x"}} {
		for _, command := range []string{"", "tc"} {
			for _, args := range [][]string{nil, {"a1", "a 2"}, {""}} {
				tasks = append(tasks, TaskCommand{entrypoint, command, args})
			}
		}
	}
	tasks = append(tasks, TaskCommand{Args: []string{}})
	for _, entrypoint := range []string{"", `ENTRYPOINT ["/e","x y"]`, `ENTRYPOINT shell e`, `ENTRYPOINT [""]`, `ENTRYPOINT []`} {
		for _, cmd := range []string{"", `CMD ["c","d"]`, `CMD shell c`, `CMD []`} {
			t.Run(fmt.Sprintf("image %s %s", entrypoint, cmd), func(t *testing.T) {
				changes := slices.DeleteFunc([]string{entrypoint, cmd}, func(s string) bool { return s == "" })
				image := e.load(t, emptyTar(), changes...)
				inspected, err := e.ImageInspect(context.Background(), image)
				must.NoError(t, err)
				var says ImageConfig
				if inspected.Config != nil {
					says = ImageConfig{Entrypoint: inspected.Config.Entrypoint, Cmd: inspected.Config.Cmd}
				}
				for _, task := range tasks {
					got, err := Command(says, task)
					want, dockers := e.commandOf(t, image, task)
					what := must.Sprintf("%#v", task)
					if dockers != nil {
						must.StrContains(t, strings.ToLower(dockers.Error()), ErrNoCommand.Error(), what)
						must.ErrorIs(t, err, ErrNoCommand, what)
						continue
					}
					must.NoError(t, err, what)
					must.Eq(t, want, got, what)
				}
			})
		}
	}
}

// commandOf makes a container as Nomad's docker driver does (createContainerConfig) and reads what
// the engine would run.
func (e engine) commandOf(t *testing.T, image string, task TaskCommand) ([]string, error) {
	c := &container.Config{Image: image, Entrypoint: task.Entrypoint}
	if task.Command != "" {
		c.Cmd = append([]string{task.Command}, task.Args...)
	} else if len(task.Args) != 0 {
		c.Cmd = task.Args
	}
	id, err := e.create(t, c, &container.HostConfig{})
	if err != nil {
		return nil, err
	}
	i := e.inspect(t, id)
	return append([]string{i.Path}, i.Args...), nil
}

func TestCommandRefusesWhatNomadRefuses(t *testing.T) {
	for _, command := range []string{" ", " tc", "tc\n"} {
		_, err := Command(ImageConfig{Cmd: []string{"x"}}, TaskCommand{Command: command})
		must.Error(t, err)
	}
}
