package launcher

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/shoenig/test/must"
)

// BenchmarkStart shows what the launcher adds to a container's start (L1: at most 5 ms), beside
// starts without it, one after the other so that the machine's moods meet all alike. All have the
// secrets directory bound, as Nomad's have.
//
//	plain-ms  from the call to Docker until it says that the container runs, without the launcher
//	bound-ms  the same with the launcher bound, but not run: the price of one more bind mount
//	held-ms   the same with the launcher as the entrypoint
//	exec-ms   from then until the app runs: what the launcher itself takes
//	added-ms  held and exec less plain: what a container with secrets pays
//
// and launcher-MB, the launcher's size (L1: at most 2.5).
func BenchmarkStart(b *testing.B) {
	e := newEngine(b)
	ctx := context.Background()
	image := e.image(b)
	argv := []string{"sleep", "60"}
	path, err := install(b.TempDir())
	must.NoError(b, err)
	channel := testChannel(b).Path()
	inSecrets := secretsDir(b) + ":/secrets"
	launcher, inChannel := path+":"+ContainerPath+":ro", channel+":"+ContainerChannel+":ro"

	start := func(entrypoint, binds []string, then func()) (took time.Duration) {
		c, err := e.ContainerCreate(ctx, &container.Config{Image: image, Entrypoint: entrypoint},
			&container.HostConfig{NetworkMode: "none", Binds: binds}, nil, nil, "")
		must.NoError(b, err)
		began := time.Now()
		must.NoError(b, e.ContainerStart(ctx, c.ID, container.StartOptions{}))
		took = time.Since(began)
		then()
		must.NoError(b, e.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}))
		return took
	}
	took := map[string][]time.Duration{}
	for b.Loop() {
		plain := start(argv, []string{inSecrets}, func() {})
		bound := start(argv, []string{inSecrets, launcher, inChannel}, func() {})
		hold, err := New(channel)
		must.NoError(b, err)
		var exec time.Duration
		held := start(append([]string{ContainerPath}, hold.Args(ContainerChannel)...), []string{inSecrets, launcher, inChannel}, func() {
			began := time.Now()
			must.NoError(b, hold.Release(ctx, nil, Owner{}, Payload{Argv: argv, Env: many(20, 100)}))
			exec = time.Since(began)
		})
		for name, d := range map[string]time.Duration{
			"plain-ms": plain, "bound-ms": bound, "held-ms": held, "exec-ms": exec, "added-ms": held + exec - plain,
		} {
			took[name] = append(took[name], d)
		}
	}
	for name, all := range took {
		slices.Sort(all) // the median: one slow start is the machine's
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name)
	}
	b.ReportMetric(float64(len(binary))/1e6, "launcher-MB")
}
