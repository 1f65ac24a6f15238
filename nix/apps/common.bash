# Sourced by the scripts beside it: what they share.
# shellcheck shell=bash disable=SC2034  # the variables are used by those scripts

# If stderr is closed, as after Ctrl-C in `... 2>&1 | tee log`, scripts still clean up.
say() { printf '%s\n' "$*" >&2 || true; }
step() { printf '%4d s  %s\n' "$SECONDS" "$*" >&2 || true; }

# die WHAT [HINT]
die() {
	say "error: $1"
	(($# < 2)) || say "  hint: $2"
	exit 1
}

# macOS has bash 3.2, which lacks mapfile and treats an empty array as unset.
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
	die "bash $BASH_VERSION is too old" "install bash 4.4 or later (\`brew install bash\`), or run this inside \`nix develop\`"

apps=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The flake's apps set where these are in the store.
k8s=$(cd "${PING_PONG_K8S:-$apps/../../k8s}" && pwd)
state=${PING_PONG_STATE:-${XDG_STATE_HOME:-${HOME:-}/.local/state}/ping-pong}

# A script that runs another passes its own start on.
SECONDS=${PING_PONG_SECONDS:-0}

# `check` uses a cluster of its own.
cluster=${PING_PONG_CLUSTER:-ping-pong}
context=k3d-$cluster
namespace=ping-pong
# How a script is called, for messages: by path, or as the flake's app.
call=${PING_PONG_CALL:-${apps#"$PWD/"}/}

# need TOOL WHAT_FOR
need() {
	command -v "$1" >/dev/null || die "$1 is not on PATH; it $2" "install $1, or run this inside \`nix develop\`"
}

# Prints the comment at the top of the running script.
help() {
	awk 'NR > 1 && /^#/ { sub(/^# ?/, ""); print; next } NR > 1 { exit }' "$0"
	exit 0
}

unknown() { die "unknown argument: $1" "$(basename "$0") --help lists the arguments"; }
value() { [[ $# -gt 1 && -n $2 ]] || die "$1 needs a value" "$(basename "$0") --help"; }

# check_archive FILE
check_archive() {
	[[ -r $1 ]] || die "cannot read the image archive $1"
	# Those that Nix builds; tar calls this program too.
	[[ $(head -c 4 "$1" | od -An -tx1) != *"28 b5 2f fd"* ]] || need zstd "unpacks $1"
}

# The name of a service's image in an archive of `docker save` or OCI.
name_in() {
	{ tar -xOf "$1" manifest.json || tar -xOf "$1" index.json; } 2>/dev/null |
		grep -oE '"([^"[]*/)?(ponger|pinger):[^"]+"' | head -1 | tr -d '"'
}

# Never the current context: only that of cluster-up's own cluster, or the one given by --context.
kube() { kubectl --context "$context" "$@"; }
apply() { kube apply --server-side --force-conflicts --field-manager=ping-pong "$@" >/dev/null; }

# Prints the name of the cluster, if it exists.
find_cluster() {
	local clusters
	clusters=$(k3d cluster list --no-headers) || die "k3d cannot list clusters (above)" "start the Docker daemon, and check \`docker info\`"
	awk -v name="$cluster" '$1 == name { print $1 }' <<<"$clusters"
}
# Also what k3d created before the first node, which it does not delete without one.
delete_cluster() {
	local log left
	# k3d would end at the first write to a closed stderr.
	log=$(k3d cluster delete "$cluster" 2>&1) || {
		say "$log"
		return 1
	}
	left=$(docker ps --all --quiet --filter "label=k3d.cluster=$cluster" 2>/dev/null) || true
	# shellcheck disable=SC2086  # one argument for each container
	[[ ! $left ]] || docker rm --force --volumes $left >/dev/null 2>&1 || true
	docker network rm "k3d-$cluster" >/dev/null 2>&1 || true
	docker volume rm "k3d-$cluster-images" >/dev/null 2>&1 || true
}
# The same for a creation that was interrupted: what Docker had begun to create then appears a moment later.
delete_unfinished_cluster() {
	local _
	for _ in 1 2 3 4; do
		delete_cluster || return
		sleep 0.5
	done
}

context_exists() {
	local own="run ${call}cluster-up first, or name another context by --context"
	[[ $context == "k3d-$cluster" ]] || own="\`kubectl config get-contexts\` lists them"
	need kubectl "talks to the cluster"
	# Not grep -q: it exits early, and kubectl then fails with a broken pipe.
	kubectl config get-contexts -o name 2>/dev/null | grep -xF "$context" >/dev/null ||
		die "there is no context $context in the kubeconfig" "$own"
	kube get --raw /readyz --request-timeout=10s >/dev/null 2>&1 ||
		die "the cluster of context $context does not answer" "\`kubectl --context $context get nodes\` shows the error"
}

# Switches to this context's own state folder, readable by its owner only.
context_state() {
	[[ $state != /.local/state/* ]] || die "HOME is not set, so there is no folder for certificates" "set HOME or PING_PONG_STATE"
	state=$state/${context//[^A-Za-z0-9._-]/_}
	(umask 077 && mkdir -p "$state")
	chmod 700 "$state"
}
