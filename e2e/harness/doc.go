// Package harness runs the real servers that the end-to-end tests and the demo need: Nomad, Vault,
// MariaDB, a Docker registry, and the images and test program that jobs use.
//
// A Cluster is one Vault, one MariaDB and one Nomad agent that know each other:
//
//	c, err := harness.Start(ctx, harness.Options{Placement: harness.InPlace})
//	defer c.Close()
//	c.Vault.EnableKV2(ctx, "secret")
//	job, err := c.Agent.Submit(ctx, jobHCL)
//	alloc, err := job.Running(ctx)
//	starts, err := alloc.WaitLines(ctx, "web", "start ", 1)
//
// Every server has its own directory, ports and log file below one work directory, can be stopped,
// killed and started again on the same data, and dies with the process that started it. What a
// killed run left behind (processes, containers, mounts) is cleared by the next one, see workdir.go.
//
// Nothing here skips: a tool that is missing is an error that says what to install or make.
// Nothing here knows *testing.T: the demo uses it too.
package harness
