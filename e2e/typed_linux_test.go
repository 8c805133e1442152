// typed_linux_test.go owns that the commands of README.md and docs/deployment.md work as they stand there: from a fresh checkout and a
// generated homeserver.yaml to a node that is in, and a check without a problem.

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// typedBlocks are the blocks of commands, or of a file, in a section of a document.
func typedBlocks(section string) (blocks []string) {
	inside := false
	for line := range strings.Lines(section) {
		text, isIndented := strings.CutPrefix(line, "    ")
		switch {
		case isIndented && inside:
			blocks[len(blocks)-1] += text
		case isIndented:
			blocks = append(blocks, text)
		}
		inside = isIndented || inside && strings.TrimSpace(line) == ""
	}
	return blocks
}

// typedBefore makes a machine of its own: its network, its processes, and a layer over the directories that the commands write to.
// The module cache stays the user's. A server name leads to this machine, and has a certificate.
const typedBefore = `
set -eu
export GOPATH=$(go env GOPATH) GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE) HOME=$TYPED/home PATH=$SYNAPSE:$PATH:/usr/sbin
ip link set lo up
mkdir layer && mount -t tmpfs tmpfs layer
for dir in etc usr/local usr/bin var/log; do
	mkdir -p layer/$dir.new layer/$dir.work
	mount -t overlay overlay -o lowerdir=/$dir,upperdir=layer/$dir.new,workdir=layer/$dir.work /$dir
done
mount -t tmpfs tmpfs /run
mkdir -p home/synapse /etc/letsencrypt/live/transport02.smartmesh.cn
cp cert.pem /etc/letsencrypt/live/transport02.smartmesh.cn/fullchain.pem
cp key.pem /etc/letsencrypt/live/transport02.smartmesh.cn/privkey.pem
echo 127.0.0.1 localhost transport02.smartmesh.cn >/etc/hosts
command -v sudo >/dev/null || { printf '#!/bin/sh\nexec "$@"\n' >/usr/bin/sudo && chmod +x /usr/bin/sudo; }
printf '#!/bin/sh\ntest "$*" = "reload nginx" && exec nginx -s reload\n' >/usr/local/bin/systemctl && chmod +x /usr/local/bin/systemctl
rm -f /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*
nginx
git config --global url."$CHECKOUT".insteadOf https://github.com/SmartMeshFoundation/matrix-regservice
git config --global safe.directory '*'
cd home/synapse
python -m synapse.app.homeserver --server-name transport02.smartmesh.cn --config-path homeserver.yaml --generate-config --report-stats=no
say() { # that a command prints within two minutes
	for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
	echo "this did not come true: $*"; tail -n 30 ~/*.log; exit 1
}
`

// typedServers are the commands that serve, each with what shows that it does.
var typedServers = map[string]string{
	"python -m synapse.app.homeserver --config-path homeserver.yaml --config-path conf.d": `curl --fail http://127.0.0.1:8007/_matrix/client/versions`,
	"./run.sh": `grep "The homeserver reaches this service" ~/run.log`,
}

// typedScript makes a script of the blocks of a section.
func typedScript(t *testing.T, section string) string {
	t.Helper()
	script := typedBefore
	served := 0
	for _, block := range typedBlocks(section) {
		if strings.HasPrefix(block, "server {") {
			script += "cat >/etc/nginx/conf.d/matrix-regservice.conf <<'END'\n" + block + "END\nnginx -s reload\n"
			continue
		}
		for line := range strings.Lines(block) {
			if shows, serves := typedServers[strings.TrimSpace(line)]; serves {
				served++
				name := "synapse"
				if strings.Contains(line, "run.sh") {
					name = "run"
				}
				line = strings.TrimSpace(line) + " >~/" + name + ".log 2>&1 &\nsay " + shows + "\n"
			}
			if strings.HasPrefix(line, "matrix-regservice") && strings.Contains(line, " register ") {
				line = "say curl --fail http://127.0.0.1:8008/_matrix/client/versions\n" + line // nginx reloads beside us
			}
			script += line
		}
	}
	if served != len(typedServers) {
		t.Fatalf("%d servers are started:\n%s", served, script)
	}
	return script
}

func TestTypedAsDocumented(t *testing.T) {
	need.OnlyLong(t)
	need.All(t, Recipes[0].Installed(t.Context()), NginxInstalled())
	for _, program := range []struct{ name, cure string }{{"unshare", "apt-get install util-linux"}, {"git", "apt-get install git"}, {"make", "apt-get install make"}, {"curl", "apt-get install curl"}} {
		if _, err := exec.LookPath(program.name); err != nil {
			need.All(t, need.Missing{What: program.name, Cure: program.cure})
		}
	}
	if os.Geteuid() != 0 {
		need.All(t, need.Missing{What: "root, for a machine of its own", Cure: "make test-all as root"})
	}
	root := must(moduleRoot(t.Context()))(t)
	cut := func(file, from, to string) string {
		_, section, found := strings.Cut(string(must(os.ReadFile(filepath.Join(root, file)))(t)), from)
		section, _, ends := strings.Cut(section, to)
		if !found || !ends {
			t.Fatalf("%s has nothing between %q and %q", file, from, to)
		}
		return section
	}
	for _, test := range []struct{ name, section string }{
		{"README.md", cut("README.md", "\n## Quick start\n", "\n## ")},
		{"deployment.md from a checkout", cut("docs/deployment.md", "\n## B. A checkout\n", "\n### The unit without the package\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			door := &frontDoor{nginx: &nginx{dir: t.TempDir()}}
			door.certify(t)
			machine := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", typedScript(t, test.section))
			machine.Dir = door.dir
			machine.Env = append(os.Environ(), "TYPED="+door.dir, "CHECKOUT="+root, "SYNAPSE="+filepath.Join(root, "e2e", Recipes[0].bin))
			out, err := machine.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(string(out), "\nlogout    200 ") || !strings.Contains(string(out), "\n0 problems, 0 warnings") {
				t.Errorf("got\n%s", out)
			}
		})
	}
}
