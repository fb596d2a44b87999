{{/*
What the program would not run as it is written, and the schema cannot see because it depends on two values. In a
pod only its log and a metric would say so, and the routes concerned would answer 503: so it is refused here, with
path and fix. The rules are those of src/config, and tests/refused.yaml holds both against each other. Left to the
program: files of authorities, names of more than 63 bytes, a second tail of standard input, parts that it was built
without.

Takes {root, config, path, mounts, env, own}: the path is what messages call the configuration; mounts and
environment are those of its container; own is where in the values it has more of both, "" or "poller.".
*/}}
{{- define "plimsoll.check" -}}
{{- $config := .config -}}
{{- $path := .path -}}
{{- $sources := $config.sources | default dict -}}
{{- $pollers := $config.pollers | default dict -}}
{{- $listeners := list (dict "bind" "127.0.0.1:8429" "routes" (list (dict "name" "anthropic" "upstream" "https://api.anthropic.com"))) -}}
{{- if hasKey $config "listeners" -}}
{{- $listeners = $config.listeners -}}
{{- end -}}
{{- if not (or $listeners $sources.routes $sources.tails (hasKey $sources "envoy_als") (hasKey $sources "otlp") $pollers.anthropic $pollers.aws $pollers.google $pollers.gateways $pollers.limits) -}}
{{- fail (printf "%s.listeners: no listeners, no sources and no pollers; leave the key out for the default one, or add one" $path) -}}
{{- end -}}

{{- $names := list -}}
{{- range $l, $listener := $listeners -}}
{{- $guarded := or (include "plimsoll.loopback" $listener.bind) (dig "tls" "client_ca_file" "" $listener) -}}
{{- $prefixes := list -}}
{{- range $r, $route := $listener.routes -}}
{{- $at := printf "%s.listeners[%d].routes[%d]" $path $l $r -}}
{{- if has $route.name $names -}}
{{- fail (printf "%s.name: %s names another route already; names are labels, so make each unique" $at $route.name) -}}
{{- end -}}
{{- $names = append $names $route.name -}}
{{- $prefix := regexReplaceAll "/+$" ($route.prefix | default "") "" -}}
{{- if has $prefix $prefixes -}}
{{- fail (printf "%s.prefix: another route of this listener has the prefix %s/ already; give each its own" $at $prefix) -}}
{{- end -}}
{{- $prefixes = append $prefixes $prefix -}}
{{- with $route.resign -}}
{{- if not (or $guarded .any_caller) -}}
{{- fail (printf "%s.resign: whoever reaches %s would call AWS with Plimsoll's own credentials; bind it to 127.0.0.1, set tls.client_ca_file, or any_caller: true" $at $listener.bind) -}}
{{- end -}}
{{- if and (hasPrefix "http:" $route.upstream) (not (regexMatch "^http://(localhost|127\\.[0-9.]+|\\[::1\\])([:/]|$)" $route.upstream)) -}}
{{- fail (printf "%s.resign: signed requests would pass in the clear; use https:// for the upstream" $at) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $sources.routes -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $logs := list "hop" "otlp" "report" "envoy_als" -}}
{{- range $t, $tail := $sources.tails -}}
{{- $at := printf "%s.sources.tails[%d]" $path $t -}}
{{- $name := $tail.name | default $tail.preset | default "report" -}}
{{- if has $name $logs -}}
{{- fail (printf "%s.name: %s names another source already; give the tail its own name" $at $name) -}}
{{- end -}}
{{- $logs = append $logs $name -}}
{{- if and $tail.route (not (has $tail.route $names)) -}}
{{- fail (printf "%s.route: no route is called %s; add it to sources.routes" $at $tail.route) -}}
{{- end -}}
{{- end -}}

{{- $asked := list -}}
{{- range $pollers.aws -}}
{{- $aws := . -}}
{{- range .regions -}}
{{- $asked = append $asked (printf "pollers.aws: %s/%s" $aws.name .) -}}
{{- end -}}
{{- end -}}
{{- range $pollers.google -}}
{{- $asked = append $asked (printf "pollers.google: %s" .name) -}}
{{- end -}}
{{- range $g, $gateway := $pollers.gateways -}}
{{- $at := printf "%s.pollers.gateways[%d]" $path $g -}}
{{- $asked = append $asked (printf "pollers.gateways: %s" .name) -}}
{{- $budgets := or .keys .teams -}}
{{- if and $budgets (ne .kind "litellm") -}}
{{- fail (printf "%s: only LiteLLM has budgets of keys and teams; leave keys and teams out" $at) -}}
{{- end -}}
{{- if and (or $budgets (eq .kind "openrouter")) (not .key) -}}
{{- fail (printf "%s.key: its budgets are told only to whoever shows a key; set key.file or key.env" $at) -}}
{{- end -}}
{{- if and .route (not (has .route $names)) -}}
{{- fail (printf "%s.route: no route is called %s; add it to sources.routes" $at .route) -}}
{{- end -}}
{{- end -}}
{{- if ne (len $asked) (len (uniq $asked)) -}}
{{- range $n, $one := $asked -}}
{{- if has $one (slice $asked 0 $n) -}}
{{- fail (printf "%s.%s stands there twice; give each entry its own name, each region once" $path $one) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- $owners := list -}}
{{- range $o, $owner := $config.owners -}}
{{- if has .name $owners -}}
{{- fail (printf "%s.owners[%d].name: %s names another owner already; list all that it owns in one entry" $path $o .name) -}}
{{- end -}}
{{- $owners = append $owners .name -}}
{{- end -}}

{{- $alerts := $config.alerts | default dict -}}
{{- $label := $alerts.owner_label | default "owner" -}}
{{- range $name, $_ := $alerts.labels -}}
{{- if has $name (list $label (printf "%s_kind" $label)) -}}
{{- fail (printf "%s.alerts.labels.%s: Plimsoll sets this label itself; rename it" $path $name) -}}
{{- end -}}
{{- end -}}
{{- if lt (float64 ($alerts.exhausting_utilization | default 0.95)) (float64 ($alerts.pressure_utilization | default 0.8)) -}}
{{- fail (printf "%s.alerts.exhausting_utilization: the critical alert would come before the warning; set it to pressure_utilization (0.8) or more" $path) -}}
{{- end -}}
{{- if gt (float64 ($alerts.exhausting_horizon_secs | default 20)) (float64 ($alerts.pressure_horizon_secs | default 60)) -}}
{{- fail (printf "%s.alerts.exhausting_horizon_secs: the critical alert would come before the warning; set it to pressure_horizon_secs (60) or less" $path) -}}
{{- end -}}

{{- include "plimsoll.checkPorts" (dict "config" $config "path" $path "listeners" $listeners) -}}
{{- include "plimsoll.checkSecrets" (merge (dict "listeners" $listeners) .) -}}
{{- end -}}

{{/*
The program refuses equal addresses. A wildcard takes the port of every other address too, which only the kernel
would say: so any two that share a port are refused if one of them is a wildcard.
*/}}
{{- define "plimsoll.checkPorts" -}}
{{- $path := .path -}}
{{- $binds := list (dict "at" "metrics.bind" "bind" .config.metrics.bind) -}}
{{- $binds = append $binds (dict "at" "admin.bind" "bind" (dig "admin" "bind" "127.0.0.1:9430" .config)) -}}
{{- range $l, $listener := .listeners -}}
{{- $binds = append $binds (dict "at" (printf "listeners[%d].bind" $l) "bind" $listener.bind) -}}
{{- end -}}
{{- $sources := .config.sources | default dict -}}
{{- with $sources.envoy_als -}}
{{- $binds = append $binds (dict "at" "sources.envoy_als.bind" "bind" .bind) -}}
{{- end -}}
{{- if hasKey $sources "otlp" -}}
{{- range $key, $bind := fromJson (include "plimsoll.otlpBinds" $sources.otlp) -}}
{{- $binds = append $binds (dict "at" (printf "sources.otlp.%s" $key) "bind" $bind) -}}
{{- end -}}
{{- end -}}
{{- range $n, $one := $binds -}}
{{- range $other := slice $binds 0 $n -}}
{{- $shared := eq (regexFind "[0-9]+$" $one.bind) (regexFind "[0-9]+$" $other.bind) -}}
{{- $same := eq (lower $one.bind) (lower $other.bind) -}}
{{- $wildcard := "^(0\\.0\\.0\\.0|\\[[0:]+\\]):" -}}
{{- if and $shared (or $same (regexMatch $wildcard $one.bind) (regexMatch $wildcard $other.bind)) -}}
{{- fail (printf "%s.%s: %s has the port of %s.%s (%s); give each its own port" $path $one.at $one.bind $path $other.at $other.bind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where OTLP is received, as JSON {grpc, http}: both of the program's defaults if neither is named. Takes `sources.otlp`. */}}
{{- define "plimsoll.otlpBinds" -}}
{{- $named := pick (. | default dict) "grpc" "http" -}}
{{- $named | default (dict "grpc" "127.0.0.1:4317" "http" "127.0.0.1:4318") | toJson -}}
{{- end -}}

{{/*
A secret comes from a mount or the environment of the container, and both are written here. What a webhook adds is
seen by nobody before it is there, so `injected` names it. Authorities (ca_file) are not asked for: they may
be in the image.
*/}}
{{- define "plimsoll.checkSecrets" -}}
{{- $path := .path -}}
{{- $config := .config -}}
{{- $places := dict "fingerprint_key" $config.fingerprint_key "admin.token" (dig "admin" "token" dict $config) -}}
{{- range $l, $listener := .listeners -}}
{{- range $key, $file := pick ($listener.tls | default dict) "cert_file" "key_file" -}}
{{- $_ := set $places (printf "listeners[%d].tls.%s" $l $key) $file -}}
{{- end -}}
{{- range $r, $route := $listener.routes -}}
{{- $_ := set $places (printf "listeners[%d].routes[%d].client_cert_file" $l $r) $route.client_cert_file -}}
{{- end -}}
{{- end -}}
{{- range $c, $credential := $config.credentials -}}
{{- $_ := set $places (printf "credentials[%d].secret" $c) $credential.secret -}}
{{- end -}}
{{- range $a, $manager := dig "alerts" "alertmanagers" list $config -}}
{{- $_ := set $places (printf "alerts.alertmanagers[%d].bearer_token" $a) $manager.bearer_token -}}
{{- end -}}
{{- $_ := set $places "pollers.anthropic.admin_key" (dig "pollers" "anthropic" "admin_key" dict $config) -}}
{{- range $g, $gateway := dig "pollers" "gateways" list $config -}}
{{- $_ := set $places (printf "pollers.gateways[%d].key" $g) $gateway.key -}}
{{- end -}}
{{- $otlp := dig "sources" "otlp" dict $config | default dict -}}
{{- $_ := set $places "sources.otlp.token" $otlp.token -}}
{{- range $name, $secret := dig "forward" "headers" dict $otlp -}}
{{- $_ := set $places (printf "sources.otlp.forward.headers.%s" $name) $secret -}}
{{- end -}}

{{- $injected := .root.Values.injected -}}
{{- $mounts := $injected.paths -}}
{{- range .mounts -}}
{{- $mounts = append $mounts .mountPath -}}
{{- end -}}
{{- $env := $injected.env -}}
{{- range .env -}}
{{- $env = append $env .name -}}
{{- end -}}
{{- range $at, $place := $places -}}
{{- $file := $place -}}
{{- if kindIs "map" $place -}}
{{- $file = $place.file -}}
{{- $at = printf "%s.%s" $at (keys $place | first) -}}
{{- if and $place.env (not (has $place.env $env)) -}}
{{- fail (printf "%s.%s: %s is not set in this container; set it with %sextraEnv, or name it in injected.env if a webhook does" $path $at $place.env $.own) -}}
{{- end -}}
{{- end -}}
{{- if $file -}}
{{- $found := false -}}
{{- range $mounts -}}
{{- if hasPrefix (printf "%s/" (trimSuffix "/" .)) (printf "%s/" $file) -}}
{{- $found = true -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s.%s: %s is below no mount of this container; mount its Secret with %sextraVolumes and %sextraVolumeMounts, or name its folder in injected.paths if a webhook mounts it" $path $at $file $.own $.own) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
