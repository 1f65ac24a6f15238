# Sourced by the scripts beside it: what they share.
# shellcheck shell=bash disable=SC2034  # the variables are used by those scripts

apps=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The flake's apps say where these are in the store.
k8s=${PING_PONG_K8S:-$apps/../../k8s}
state=${PING_PONG_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/ping-pong}

# One script that runs another lets it count on.
SECONDS=${PING_PONG_SECONDS:-0}

cluster=ping-pong
context=k3d-$cluster
namespace=ping-pong

say() { printf '%s\n' "$*" >&2; }
step() { printf '%4d s  %s\n' "$SECONDS" "$*" >&2; }

# die WHAT [CURE]
die() {
	say "error: $1"
	(($# < 2)) || say "  cure: $2"
	exit 1
}

# need TOOL WHAT_FOR
need() {
	command -v "$1" >/dev/null || die "$1 is not on PATH; it $2" "install $1, or run this inside \`nix develop\`"
}

# Prints the comment at the top of the running script.
help() {
	awk 'NR > 1 && /^#/ { sub(/^# ?/, ""); print; next } NR > 1 { exit }' "$0"
	exit 0
}

unknown() { die "unknown argument: $1" "$(basename "$0") --help lists what it takes"; }
value() { [[ $# -gt 1 && -n $2 ]] || die "$1 wants a value" "$(basename "$0") --help"; }

# Never the current context: only the one that cluster-up made, or that --context names.
kube() { kubectl --context "$context" "$@"; }
apply() { kube apply --server-side --force-conflicts --field-manager=ping-pong "$@" >/dev/null; }

context_exists() {
	need kubectl "speaks with the cluster"
	# Not by grep -q, which leaves kubectl with a broken pipe.
	kubectl config get-contexts -o name 2>/dev/null | grep -xF "$context" >/dev/null ||
		die "there is no context $context" "run cluster-up, or name another one by --context"
	kube get --raw /readyz --request-timeout=10s >/dev/null 2>&1 ||
		die "the cluster of context $context does not answer" "start it (\`k3d cluster start $cluster\`), or run cluster-up again"
}

# Keeps what the scripts know of this context to its owner.
context_state() {
	state=$state/${context//[^A-Za-z0-9._-]/_}
	(umask 077 && mkdir -p "$state")
	chmod 700 "$state"
}
