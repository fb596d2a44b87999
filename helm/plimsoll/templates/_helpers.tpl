{{/*
Names, labels, and what follows from the configuration. Every template here takes the chart's own
scope: `.` inside this chart, `.Subcharts.plimsoll` in a chart that depends on it.
*/}}

{{- define "plimsoll.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "plimsoll.selectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "plimsoll.labels" -}}
{{ include "plimsoll.selectorLabels" . }}
{{ include "plimsoll.releaseLabels" . }}
{{- end -}}

{{- define "plimsoll.releaseLabels" -}}
{{- include "plimsoll.refuseKeys" (dict "given" .Values.commonLabels "path" "commonLabels" "taken" (append (include "plimsoll.ownLabels" . | splitList " ") "app.kubernetes.io/component")) -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "plimsoll.ownLabels" -}}
app.kubernetes.io/name app.kubernetes.io/instance app.kubernetes.io/version app.kubernetes.io/managed-by helm.sh/chart
{{- end -}}

{{/*
A key that the chart writes itself would stand there twice: YAML refuses that or takes the last one, which no
selector finds then. Takes {given, path, taken}.
*/}}
{{- define "plimsoll.refuseKeys" -}}
{{- $path := .path -}}
{{- $taken := .taken -}}
{{- range $key, $_ := .given -}}
{{- if has $key $taken -}}
{{- fail (printf "%s: %s is set by the chart already; leave it out" $path $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of pods beside those of the selector. Takes {root, given, path, taken}; what is given wins over commonLabels. */}}
{{- define "plimsoll.podLabels" -}}
{{- include "plimsoll.refuseKeys" . -}}
{{- with merge (deepCopy .given) .root.Values.commonLabels -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* Labels of what is for the Prometheus Operator and Grafana. Takes {root, given, path}. */}}
{{- define "plimsoll.monitoringLabels" -}}
{{- include "plimsoll.refuseKeys" (dict "given" .given "path" .path "taken" (include "plimsoll.ownLabels" .root | splitList " ")) -}}
{{- toYaml (merge (deepCopy .given) (fromYaml (include "plimsoll.labels" .root))) -}}
{{- end -}}

{{/*
The poller's pods have another name and not only another component: the selector of the shared hop's Deployment,
which cannot be changed, would take them for its own.
*/}}
{{- define "plimsoll.pollerSelectorLabels" -}}
app.kubernetes.io/name: {{ printf "%s-poller" (.Values.nameOverride | default .Chart.Name) }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "plimsoll.pollerLabels" -}}
{{ include "plimsoll.pollerSelectorLabels" . }}
app.kubernetes.io/component: poller
{{ include "plimsoll.releaseLabels" . }}
{{- end -}}

{{- define "plimsoll.pollerName" -}}
{{- printf "%s-poller" (include "plimsoll.fullname" . | trunc 56 | trimSuffix "-") -}}
{{- end -}}

{{/* Takes {account, name}: the values of a service account, and the name that it has if they say none. */}}
{{- define "plimsoll.accountName" -}}
{{- if .account.create -}}
{{- .account.name | default .name -}}
{{- else -}}
{{- .account.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "plimsoll.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: name the image that you built or mirrored, for example registry.example.com/plimsoll" $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* "true" for an address that only the pod itself reaches. */}}
{{- define "plimsoll.loopback" -}}
{{- if regexMatch "^(127\\.|\\[::1\\])" . -}}true{{- end -}}
{{- end -}}

{{/*
The configuration as it is mounted: `.Values.config`, with what a pod needs where it says nothing. The hop
stays on loopback in a sidecar; a standalone hop is useless there.

Who makes a poller in the same release wants its limits: without them a hop counts calls to clouds against
nothing. So `pollers.limits` names it, unless it names another one; a poller that is not there costs a line
in the log, and never a call.
*/}}
{{- define "plimsoll.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.poller.enabled -}}
{{- $url := printf "http://%s.%s.svc:%s" (include "plimsoll.pollerName" .) .Release.Namespace (include "plimsoll.pollerMetricsPort" .) -}}
{{- $pollers := $config.pollers | default dict -}}
{{- if not $pollers.limits -}}
{{- $_ := set $config "pollers" (set $pollers "limits" (dict "url" $url)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.standalone.enabled -}}
{{- if not (hasKey $config "listeners") -}}
{{- $route := dict "name" "anthropic" "upstream" "https://api.anthropic.com" -}}
{{- $_ := set $config "listeners" (list (dict "bind" "0.0.0.0:8429" "routes" (list $route))) -}}
{{- end -}}
{{- range $i, $listener := $config.listeners -}}
{{- if include "plimsoll.loopback" $listener.bind -}}
{{- fail (printf "config.listeners[%d].bind: %s is a loopback address, where no other pod reaches a standalone hop; use 0.0.0.0 or [::]" $i $listener.bind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "plimsoll.inPod" (dict "root" . "config" $config "path" "config" "mounts" .Values.extraVolumeMounts "env" .Values.extraEnv "own" "") -}}
{{- end -}}

{{/*
The poller's: `.Values.poller.config`. Owners and groups of models must be those of the hops, or what the
poller and the hops tell would not be joined by its labels; and where alerts and metrics go is one decision. So
these come from `.Values.config`, each unless `poller.config` has it; nothing else does.
*/}}
{{- define "plimsoll.pollerConfig" -}}
{{- $config := deepCopy .Values.poller.config -}}
{{- range $key, $value := pick (deepCopy .Values.config) "admin" "alerts" "external_url" "model_groups" "otlp" "owners" -}}
{{- if not (hasKey $config $key) -}}
{{- $_ := set $config $key $value -}}
{{- end -}}
{{- end -}}
{{- if $config.listeners -}}
{{- fail "poller.config.listeners: a poller forwards no calls; use standalone.enabled or a sidecar for that, and leave this out" -}}
{{- end -}}
{{- $_ := set $config "listeners" list -}}
{{- range $key, $_ := omit ($config.sources | default dict) "routes" -}}
{{- fail (printf "poller.config.sources.%s: a poller listens to nobody and mounts no logs; put it into config.sources of a standalone or a sidecar" $key) -}}
{{- end -}}
{{- if not (pick ($config.pollers | default dict) "anthropic" "aws" "google" "gateways") -}}
{{- fail "poller.config.pollers: nothing is asked for; name anthropic, aws, google or gateways, or set poller.enabled: false" -}}
{{- end -}}
{{- $mounts := concat .Values.extraVolumeMounts .Values.poller.extraVolumeMounts -}}
{{- $env := concat .Values.extraEnv .Values.poller.extraEnv -}}
{{- include "plimsoll.inPod" (dict "root" . "config" $config "path" "poller.config" "mounts" $mounts "env" $env "own" "poller.") -}}
{{- end -}}

{{/*
Where the last good configuration is kept: a container that is started again with a broken one runs that.
*/}}
{{- define "plimsoll.stateDir" -}}
/var/lib/plimsoll
{{- end -}}

{{/*
What holds in every pod. Takes what plimsoll.check takes. The metrics port must answer on the pod's address,
because the kubelet and Prometheus come from outside.
*/}}
{{- define "plimsoll.inPod" -}}
{{- $config := .config -}}
{{- $path := .path -}}
{{- $metrics := merge (deepCopy ($config.metrics | default dict)) (dict "bind" "0.0.0.0:9429") -}}
{{- if include "plimsoll.loopback" $metrics.bind -}}
{{- fail (printf "%s.metrics.bind: %s is a loopback address, where neither probes nor Prometheus reach it; use 0.0.0.0 or [::]" $path $metrics.bind) -}}
{{- end -}}
{{- $_ := set $config "metrics" $metrics -}}
{{- $_ := set $config "state_dir" ($config.state_dir | default (include "plimsoll.stateDir" .root)) -}}
{{- $sources := $config.sources | default dict -}}
{{- with $sources.envoy_als -}}
{{- if not (or (include "plimsoll.loopback" .bind) .any_sender) -}}
{{- fail (printf "%s.sources.envoy_als.bind: whoever reaches %s could tell of calls; use 127.0.0.1, or set any_sender: true and let a NetworkPolicy say who sends" $path .bind) -}}
{{- end -}}
{{- end -}}
{{- $otlp := $sources.otlp | default dict -}}
{{- range $key := list "grpc" "http" -}}
{{- $bind := get $otlp $key | default "127.0.0.1:0" -}}
{{- if not (or (include "plimsoll.loopback" $bind) $otlp.any_sender $otlp.token) -}}
{{- fail (printf "%s.sources.otlp.%s: whoever reaches %s could tell of calls; use 127.0.0.1, set token, or set any_sender: true and let a NetworkPolicy say who sends" $path $key $bind) -}}
{{- end -}}
{{- end -}}
{{- $admin := $config.admin | default dict -}}
{{- if and $admin.bind (not (include "plimsoll.loopback" $admin.bind)) (not $admin.token) -}}
{{- fail (printf "%s.admin.token: %s is reached from other pods, so callers must show a token; set token.file or token.env, or bind admin to 127.0.0.1" $path $admin.bind) -}}
{{- end -}}
{{- include "plimsoll.check" . -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
Every port of a configuration, as JSON: {"all": [{kind, name, port, app, open, url}]}. Takes the configuration.
`kind` is hop, metrics, page or source; `open` says that other pods reach it; `url` is what a workload in the
same pod calls. The first hop is the main one. The admin port is here only if it is open: on loopback it
is for `kubectl port-forward`.
*/}}
{{- define "plimsoll.ports" -}}
{{- $config := . -}}
{{- $found := list -}}
{{- $listeners := $config.listeners -}}
{{- if not (hasKey $config "listeners") -}}
{{- $listeners = list (dict "bind" "127.0.0.1:8429") -}}
{{- end -}}
{{- range $i, $listener := $listeners -}}
{{- $name := ternary "plimsoll-hop" (printf "plimsoll-hop-%d" (add $i 1)) (eq $i 0) -}}
{{- $scheme := ternary "https" "http" (hasKey $listener "tls") -}}
{{- $found = append $found (dict "kind" "hop" "name" $name "bind" $listener.bind "app" $scheme) -}}
{{- end -}}
{{- $sources := $config.sources | default dict -}}
{{- with $sources.envoy_als -}}
{{- $found = append $found (dict "kind" "source" "name" "als" "bind" .bind "app" "kubernetes.io/h2c") -}}
{{- end -}}
{{- if hasKey $sources "otlp" -}}
{{- $otlp := fromJson (include "plimsoll.otlpBinds" $sources.otlp) -}}
{{- with $otlp.grpc -}}
{{- $found = append $found (dict "kind" "source" "name" "otlp-grpc" "bind" . "app" "kubernetes.io/h2c") -}}
{{- end -}}
{{- with $otlp.http -}}
{{- $found = append $found (dict "kind" "source" "name" "otlp-http" "bind" . "app" "http") -}}
{{- end -}}
{{- end -}}
{{- $found = append $found (dict "kind" "metrics" "name" "plimsoll-metric" "bind" $config.metrics.bind "app" "http") -}}
{{- $page := dig "admin" "bind" "127.0.0.1:9430" $config -}}
{{- if not (include "plimsoll.loopback" $page) -}}
{{- $found = append $found (dict "kind" "page" "name" "plimsoll-page" "bind" $page "app" "http") -}}
{{- end -}}
{{- $all := list -}}
{{- range $found -}}
{{- $port := regexFind "[0-9]+$" .bind -}}
{{- $host := ternary "[::1]" "127.0.0.1" (hasPrefix "[" .bind) -}}
{{- $open := eq (include "plimsoll.loopback" .bind) "" -}}
{{- $all = append $all (merge . (dict "port" $port "open" $open "url" (printf "%s://%s:%s" .app $host $port))) -}}
{{- end -}}
{{- dict "all" $all | toJson -}}
{{- end -}}

{{/* The ports of the hops and of the poller, from the chart's scope. */}}
{{- define "plimsoll.hopPorts" -}}
{{- include "plimsoll.ports" (fromYaml (include "plimsoll.config" .)) -}}
{{- end -}}
{{- define "plimsoll.pollerPorts" -}}
{{- include "plimsoll.ports" (fromYaml (include "plimsoll.pollerConfig" .)) -}}
{{- end -}}

{{/* Takes a configuration. */}}
{{- define "plimsoll.adminPort" -}}
{{- dig "admin" "bind" "127.0.0.1:9430" . | regexFind "[0-9]+$" -}}
{{- end -}}

{{- define "plimsoll.metricsPort" -}}
{{- (fromYaml (include "plimsoll.config" .)).metrics.bind | regexFind "[0-9]+$" -}}
{{- end -}}
{{- define "plimsoll.pollerMetricsPort" -}}
{{- (fromYaml (include "plimsoll.pollerConfig" .)).metrics.bind | regexFind "[0-9]+$" -}}
{{- end -}}

{{/*
Port names are at most 15 characters long. They are the same in every form, so that one PodMonitor
finds sidecars, standalone hops and pollers alike.
*/}}
{{- define "plimsoll.metricsPortName" -}}plimsoll-metric{{- end -}}

{{/*
"true" where nothing reads the configuration: no pod of this release does, and no chart has this one as a
dependency, whose pods could. Such a release is for the monitoring of others.
*/}}
{{- define "plimsoll.monitoringOnly" -}}
{{- $monitoring := .Values.monitoring -}}
{{- $some := or $monitoring.podMonitor.enabled $monitoring.prometheusRule.enabled $monitoring.dashboards.enabled -}}
{{- if and $some .Chart.IsRoot (not (or .Values.standalone.enabled .Values.poller.enabled)) -}}true{{- end -}}
{{- end -}}

{{/* The label that carries the owner in alerts: one setting for the sidecar and for the rules. */}}
{{- define "plimsoll.ownerLabel" -}}
{{- dig "alerts" "owner_label" "owner" .Values.config -}}
{{- end -}}
