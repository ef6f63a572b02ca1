package driver

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// What a job says of the pull is refused before anything is sent, for good.
func TestRegistryAuthIsRefused(t *testing.T) {
	inner := docker.NewDockerDriver(t.Context(), testLog(t))
	parser := hclutils.NewConfigParser(taskSchema(t, inner))
	for _, test := range []struct {
		name, config, server, want string
		raw                        bool
	}{
		{name: "as it should be", config: `image = "reg.example.com/app:1"`},
		{name: "of the registry", config: `image = "reg.example.com/app:1"`, server: "https://reg.example.com"},
		{name: "of another", config: `image = "reg.example.com/app:1"`, server: "other.example.com", want: `registry_auth: server_address "other.example.com" is another registry than the image's, which is reg.example.com`},
		{name: "with auth", config: "image = \"reg.example.com/app:1\"\nauth { username = \"u\" }", want: "registry_auth: the job has an auth block, too; take one of them out"},
		{name: "with an empty auth", config: "image = \"reg.example.com/app:1\"\nauth { }", want: "the job has an auth block"},
		{name: "raw_exec", config: `image = "app"`, raw: true, want: "registry_auth: this driver pulls no image; take it out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var options map[string]any
			parser.ParseHCL(t, "config {\n"+test.config+"\n}", &options)
			cfg := &drivers.TaskConfig{Name: "web"}
			must.NoError(t, cfg.EncodeConcreteDriverConfig(options))
			spec := &secrets.Spec{RegistryAuth: &secrets.RegistryAuth{Secret: "reg", ServerAddress: test.server}}
			err := checkRegistryAuth(spec, !test.raw, cfg)
			if test.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, test.want)
			must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
			must.False(t, structs.IsRecoverable(startError(err)))
			must.NoError(t, checkRegistryAuth(&secrets.Spec{}, !test.raw, cfg), must.Sprint("without the block it is nobody's business"))
		})
	}
}

// The credentials are in the config of the first start, and in nothing that is kept: not the task's options, of which the
// journal's record is made. A restart in place, which stays with its image, has none.
func TestRegistryAuthIsInTheStartAlone(t *testing.T) {
	job := &drivers.TaskConfig{ID: "alloc/web/1", Name: "web", AllocID: "alloc", AllocDir: t.TempDir(), Env: map[string]string{}}
	must.NoError(t, job.EncodeConcreteDriverConfig(map[string]any{"image": "reg.example.com/app:1", "force_pull": true}))
	must.NoError(t, os.MkdirAll(job.TaskDir().SecretsDir, 0o700))
	channel := launcher.ChannelOf(t.TempDir(), job.AllocID, job.Name)
	must.NoError(t, channel.Make())
	hold, err := launcher.New(channel.Path())
	must.NoError(t, err)
	defer hold.Remove()
	d := &Driver{name: "docker", wrapped: &wrappedDocker, log: testLog(t)}
	tk, err := d.newTask(job, false)
	must.NoError(t, err)
	tk.session = &fakeSession{login: &secrets.RegistryLogin{Secret: "reg", Username: secrets.TextValue("puller"), Password: secrets.TextValue("hunter2")}}
	tk.files, err = taskdir.OpenPublisher(job.TaskDir().SecretsDir)
	must.NoError(t, err)
	c := tk.runner.(*containers)
	c.files = (&launcher.Installer{Dirs: []string{t.TempDir()}}).FilesFor

	cfg, _, err := c.waitingConfig(t.Context(), tk, channel, hold)
	must.NoError(t, err)
	var given docker.TaskConfig
	must.NoError(t, cfg.DecodeDriverConfig(&given))
	must.Eq(t, docker.DockerAuth{Username: "puller", Password: "hunter2"}, given.Auth)
	must.True(t, given.ForcePull)
	written, err := record{}.encode(tk.cfg, tk.options)
	must.NoError(t, err)
	_, kept, options, err := decodeRecord(written)
	must.NoError(t, err)
	must.StrNotContains(t, fmt.Sprint(options, kept), "hunter2")

	held := &containerStart{containers: c, t: tk, handle: drivers.NewTaskHandle(1)}
	held.handle.Config = cfg
	must.NoError(t, held.handle.SetDriverState(struct{ ContainerID string }{"c"}))
	must.NoError(t, held.readHandle(t.Context()))
	var told docker.TaskConfig
	must.NoError(t, held.started.handle.Config.DecodeDriverConfig(&told))
	must.Eq(t, docker.DockerAuth{}, told.Auth, must.Sprint("the agent is told"))
	must.EqOp(t, "reg.example.com/app:1", told.Image)

	tk.setProcess(process{image: "sha256:abc"})
	cfg, _, err = c.waitingConfig(t.Context(), tk, channel, hold)
	must.NoError(t, err)
	var again docker.TaskConfig
	must.NoError(t, cfg.DecodeDriverConfig(&again))
	must.Eq(t, docker.DockerAuth{}, again.Auth)
	must.EqOp(t, "sha256:abc", again.Image)
	must.False(t, again.ForcePull)
}

// A start that hangs after its pull, or before it in a file that it loads the image from, holds up no other's. One that pulls for
// longer than the other's own pull might take fails that recoverably.
func TestPullTurnIsThePullsAlone(t *testing.T) {
	var made atomic.Value // when the hanging start's container was
	made.Store(time.Time{})
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		created := made.Load().(time.Time)
		switch {
		case path.Base(r.URL.Path) == "_ping":
		case !strings.HasSuffix(r.URL.Path, "/containers/web-stuck/json") || created.IsZero():
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = fmt.Fprintf(w, `{"Created": %q}`, created.Format(time.RFC3339Nano))
		}
	}))
	defer engine.Close()
	d := fakeTask(t, &fakeRunner{inner: newFakeInner()}).d
	d.opts.docker = dockerEndpoint{host: "tcp://" + strings.TrimPrefix(engine.URL, "http://")}
	take := func(alloc string, options map[string]any) (func(), error) {
		cfg := &drivers.TaskConfig{ID: alloc, Name: "web", AllocID: alloc}
		options["image"] = "nginx:latest"
		must.NoError(t, cfg.EncodeConcreteDriverConfig(options))
		return takePullTurn(d, cfg)
	}
	login := func(user string, options map[string]any) map[string]any {
		options["auth"] = map[string]any{"username": user}
		return options
	}

	loads, err := take("loads", login("other", map[string]any{"load": "../../alloc/fifo"}))
	must.NoError(t, err)
	stuck, err := take("stuck", map[string]any{})
	must.NoError(t, err)
	for _, created := range []time.Time{{}, time.Now().Add(-time.Hour)} { // none, and what an earlier start left
		made.Store(created)
		_, err = take("mine", login("mine", map[string]any{"image_pull_timeout": "1500ms"}))
		must.ErrorContains(t, err, "image nginx:latest: another task has been pulling it with other credentials for 1.5s")
		must.True(t, structs.IsRecoverable(startError(err)))
	}
	made.Store(time.Now())
	mine, err := take("mine", login("mine", map[string]any{"image_pull_timeout": "1m"}))
	must.NoError(t, err)
	for _, release := range []func(){mine, stuck, loads} {
		release()
	}
}

// A failed pull names the secret, and stays as recoverable as it was; what failed otherwise is no fault of the secret's.
func TestPullErrorNamesTheSecret(t *testing.T) {
	login := &secrets.RegistryLogin{Secret: "reg", Password: secrets.TextValue("hunter2")}
	refused := structs.NewRecoverableError(errors.New("Failed to pull `reg.example.com/app:1`: unauthorized: authentication required"), true)
	err := startError(pullError(login, refused))
	must.ErrorContains(t, err, `registry_auth: with the credentials of secret "reg": Failed to pull `)
	must.ErrorContains(t, err, "unauthorized: authentication required")
	must.True(t, structs.IsRecoverable(err))
	must.Eq(t, refused, pullError(nil, refused))
	other := errors.New("failed to create container: conflict")
	must.Eq(t, other, pullError(login, other))
}
