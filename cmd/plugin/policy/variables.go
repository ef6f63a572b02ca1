package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/taskconfig"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Variables is what a task reads of Nomad Variables, beyond what Nomad lets it read by itself: an ACL policy that is bound to it.
type Variables struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Group     string   `json:"group"`
	Task      string   `json:"task"`
	Paths     []string `json:"paths"`
}

// variables plans the ACL policy of a task that reads other variables than its own.
func (p *planner) variables(t taskconfig.Task, c *taskconfig.Config) error {
	v := Variables{
		Name: policyName(p.nomadNamespace(), p.plan.Job, *t.Group.Name, t.Name), Namespace: p.nomadNamespace(),
		Group: *t.Group.Name, Task: t.Name,
	}
	for _, sec := range c.Spec.Secrets {
		path := sec.Request.Path
		switch {
		case sec.Request.Provider != secrets.NomadProvider:
			continue
		case c.Unknown("secret", sec.Name, "path"):
			p.plan.Incomplete = true
			p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("Not here: secret %q of task %q: its path %q is known only when Nomad starts the task.", sec.Name, t.Name, c.Written("secret", sec.Name, "path")))
			continue
		case slices.Contains(ownVariables(p.plan.Job, v.Group, v.Task), path), slices.Contains(v.Paths, path):
			continue
		}
		if err := plain("the path", path); err != nil {
			return err
		}
		v.Paths = append(v.Paths, path)
	}
	if len(v.Paths) == 0 {
		return nil
	}
	for what, text := range map[string]string{"the job's id": p.plan.Job, "the namespace": v.Namespace, "the group": v.Group, "the task": v.Task} {
		if err := plain(what, text); err != nil {
			return err
		}
	}
	slices.Sort(v.Paths)
	p.plan.Variables = append(p.plan.Variables, v)
	return nil
}

// What Nomad takes for the name of an ACL policy (ValidPolicyName in nomad/structs).
const maxPolicyName = 128

var noPolicyName = regexp.MustCompile(`[^a-zA-Z0-9-]+`)

// policyName is the name of a task's ACL policy. These names are one for all of Nomad's namespaces, so each is of one task alone:
//   - JOB-GROUP-TASK of the namespace default, if none of the three has a dash itself. It has two dashes;
//   - else the same and a hash of all that the task is named by. That has three dashes or more; or it is cut, and is longer than
//     any without a hash.
func policyName(namespace, job, group, task string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", namespace, job, group, task))
	hash := "-" + hex.EncodeToString(sum[:8])
	plain := job + "-" + group + "-" + task
	name := noPolicyName.ReplaceAllString(plain, "-")
	if namespace == "default" && name == plain && strings.Count(name, "-") == 2 && len(name)+len(hash) <= maxPolicyName {
		return name
	}
	if strings.HasPrefix(name, "-") {
		name = "job" + name // else the command line takes it for an option
	}
	return name[:min(len(name), maxPolicyName-len(hash))] + hash
}

// ownVariables are those that Nomad lets a task read without a policy
// (https://developer.hashicorp.com/nomad/docs/concepts/workload-identity).
func ownVariables(job, group, task string) []string {
	own := "nomad/jobs"
	paths := []string{own}
	for _, part := range []string{job, group, task} {
		own += "/" + part
		paths = append(paths, own)
	}
	return paths
}

// Policy is the ACL policy, as `nomad acl policy apply NAME -` takes it.
func (v *Variables) Policy() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Task %q\nnamespace \"%s\" {\n  variables {\n", v.Group+"/"+v.Task, v.Namespace)
	for _, path := range v.Paths {
		fmt.Fprintf(&b, "    path \"%s\" {\n      capabilities = [\"read\"]\n    }\n", path)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

// apply is the command line that writes it and binds it to the task.
func (v *Variables) apply(job string) string {
	return fmt.Sprintf("nomad acl policy apply -namespace '%s' -job '%s' -group '%s' -task '%s' '%s' -", v.Namespace, job, v.Group, v.Task, v.Name)
}
