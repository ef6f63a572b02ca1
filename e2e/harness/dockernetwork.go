package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// subnetTries is how often another subnet is tried where one is taken: by another run, or by the machine.
const subnetTries = 10

// DockerNetwork is a user-defined network of the machine's Docker engine. It ends with the cluster.
type DockerNetwork struct {
	Name string

	images *Images
}

// NewDockerNetwork makes a network: with a subnet that it is given, as by `docker network create --subnet`, or with one that the engine chooses.
func (c *Cluster) NewDockerNetwork(ctx context.Context, name string, ownSubnet bool) (*DockerNetwork, error) {
	docker, err := dockerClient()
	if err != nil {
		return nil, err
	}
	defer docker.Close()
	n := &DockerNetwork{Name: filepath.Base(c.dir.path) + "-" + name, images: c.Images}
	if !ownSubnet {
		_, err := docker.NetworkCreate(ctx, n.Name, network.CreateOptions{})
		return n, err
	}
	for range subnetTries {
		subnet := fmt.Sprintf("10.%d.%d.0/24", 200+rand.IntN(50), rand.IntN(256))
		_, err = docker.NetworkCreate(ctx, n.Name, network.CreateOptions{IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}}})
		if err == nil {
			return n, nil
		}
	}
	return nil, fmt.Errorf("make network %s: %w", n.Name, err)
}

// Occupy takes the lowest address that is free on the network, until leave is called.
func (n *DockerNetwork) Occupy(ctx context.Context) (leave func(context.Context) error, err error) {
	docker, err := dockerClient()
	if err != nil {
		return nil, err
	}
	defer docker.Close()
	made, err := docker.ContainerCreate(ctx, &container.Config{Image: n.images.Pause},
		&container.HostConfig{NetworkMode: container.NetworkMode(n.Name)}, nil, nil, "")
	if err != nil {
		return nil, err
	}
	leave = func(ctx context.Context) error {
		docker, err := dockerClient()
		if err != nil {
			return err
		}
		defer docker.Close()
		return docker.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true})
	}
	return leave, docker.ContainerStart(ctx, made.ID, container.StartOptions{})
}

// removeNetworks removes the networks of a run, and the containers that are left on them.
func removeNetworks(ctx context.Context, run string) error {
	docker, err := dockerClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	list, err := docker.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("name", run))})
	if err != nil {
		return err
	}
	var errs []error
	for _, found := range list {
		if !strings.HasPrefix(found.Name, run+"-") { // the filter takes any part of a name
			continue
		}
		n, err := docker.NetworkInspect(ctx, found.ID, network.InspectOptions{})
		errs = append(errs, err)
		for id := range n.Containers {
			errs = append(errs, docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true}))
		}
		errs = append(errs, docker.NetworkRemove(ctx, found.ID))
	}
	return errors.Join(errs...)
}
