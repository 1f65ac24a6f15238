{{/*
Fails where another release of this chart is in the namespace: the names of its objects are fixed. Helm's own
message would name one object and an annotation. `helm template` looks nothing up.
*/}}
{{- define "ping-pong.requireOneRelease" -}}
{{- $account := lookup "v1" "ServiceAccount" .Release.Namespace "ponger" -}}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" .Release.Name $account -}}
{{- if ne $owner .Release.Name -}}
{{- $message := "the namespace %s has the release %s of this chart already, and the names of its objects are fixed" -}}
{{- fail (printf (print $message "; use another namespace, or upgrade that release") .Release.Namespace $owner) -}}
{{- end -}}
{{- end }}
