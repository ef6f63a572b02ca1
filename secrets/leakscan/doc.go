// Package leakscan searches for values in places where they must not be: files, the output of
// commands, HTTP answers, the process list.
//
//	scanner, err := leakscan.New(leakscan.Canary{Name: "db password", Value: password})
//	report, err := scanner.Scan(ctx,
//		leakscan.Command("docker inspect", "docker", "inspect", id),
//		leakscan.Tree("Docker's data", "/var/lib/docker", leakscan.TreeOptions{Mounts: leakscan.NoMounts}),
//		leakscan.Processes("process list"))
//	for _, hit := range report.Hits { … }
//
// A value is found as it is, and escaped for JSON (once, or again within JSON), for Go or for a URL;
// and each of these also as base64 (standard and URL alphabet, at any of the three alignments) and
// as hex. It is not found where it is compressed, encrypted, or broken over lines.
//
// A report says where a value is and in which form, never the value. A place that could not be read
// is an error of the scan: what was not looked at is not clean.
package leakscan
