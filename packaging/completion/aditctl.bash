# Bash completion for aditctl(1).

_aditctl_names()	# JSON-KEY COMMAND...: values of a member, as the running daemon knows them; nothing without one
{
	local key=$1
	shift
	aditctl "${socket[@]}" -o json "$@" 2>/dev/null | sed -n "s/^ *\"$key\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"
}

_aditctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local commands='status listener chain cluster tunnel conn policy audit denied kernel cert workload limits stats log log-level trace config reload drain upgrade metrics version help'
	local options='--socket --output --help' command='' sub='' i
	local -a socket=()

	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-s|--socket) socket=(-s "${COMP_WORDS[++i]}") ;;
		-o|--output|-n|--limit|-l|--listener|-p|--peer|--within|--level|--for|--count|-f|--file|-c|--config|--if-generation|--src|--dst|--principal|--authority|--header|--metadata|--since) i=$((i + 1)) ;;
		-*) ;;
		*) if [ -z "$command" ]; then command=${COMP_WORDS[i]}; elif [ -z "$sub" ]; then sub=${COMP_WORDS[i]}; fi ;;
		esac
	done
	case $prev in
	-s|--socket) compopt -o default; return ;;
	-o|--output) COMPREPLY=($(compgen -W 'table wide json' -- "$cur")); return ;;
	-f|--file|-c|--config) compopt -o default; return ;;
	-l|--listener) COMPREPLY=($(compgen -W "$(_aditctl_names name listener)" -- "$cur")); return ;;
	-n|--limit|-p|--peer|--within|--if-generation|--src|--dst|--principal|--authority|--header|--metadata|--since) return ;;
	esac
	[[ $prev == --level ]] && { COMPREPLY=($(compgen -W 'events frames bytes' -- "$cur")); return; }
	[[ $prev == --for || $prev == --count ]] && return
	case $command in
	log) options+=' --for' ;;
	trace) options+=' --level --for --count' ;;
	status|listener|cluster|kernel|workload|stats) options+=' --watch' ;;
	cert) options+=' --watch' ;;
	limits) options+=' --watch --limit' ;;
	tunnel) options+=' --watch --limit --peer' ;;
	conn) options+=' --watch --limit --listener --peer' ;;
	denied) options+=' --limit --since --listener --follow' ;;
	drain) options+=' --within --no-wait' ;;
	policy) options+=' --watch --file --prune --dry-run --if-generation --config --src --dst --listener --principal --authority --header --metadata' ;;
	audit) options+=' --limit' ;;
	upgrade) options+=' --no-wait' ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$options" -- "$cur"))
		return
	fi
	case $command/$sub in
	/) COMPREPLY=($(compgen -W "$commands" -- "$cur")) ;;
	help/) COMPREPLY=($(compgen -W "$commands" -- "$cur")) ;;
	trace/) COMPREPLY=($(compgen -W 'conn peer listener' -- "$cur")) ;;
	trace/conn) COMPREPLY=($(compgen -W "$(_aditctl_names id conn list)" -- "$cur")) ;;
	trace/listener) COMPREPLY=($(compgen -W "$(_aditctl_names name listener)" -- "$cur")) ;;
	log/) COMPREPLY=($(compgen -W 'list set reset' -- "$cur")) ;;
	log/reset) COMPREPLY=($(compgen -W 'all main config admin chain tunnel tls net' -- "$cur")) ;;
	conn/) COMPREPLY=($(compgen -W 'list show explain kill' -- "$cur")) ;;
	conn/show|conn/explain|conn/kill) COMPREPLY=($(compgen -W "$(_aditctl_names id conn list)" -- "$cur")) ;;
	policy/) COMPREPLY=($(compgen -W 'list get apply delete diff test explain' -- "$cur")) ;;
	policy/get|policy/delete) COMPREPLY=($(compgen -W "$(_aditctl_names name policy list)" -- "$cur")) ;;
	policy/test) compopt -o default ;;
	cert/) COMPREPLY=($(compgen -W "list $(_aditctl_names identity cert)" -- "$cur")) ;;
	kernel/) COMPREPLY=($(compgen -W 'bypass' -- "$cur")) ;;
	kernel/bypass) COMPREPLY=($(compgen -W 'on off' -- "$cur")) ;;
	config/) COMPREPLY=($(compgen -W 'check' -- "$cur")) ;;
	config/check) compopt -o default ;;
	log/set|log-level/*)
		# "=" may be a word break: complete the level behind it as well as the area before it
		if [[ $cur == *=* ]]; then
			COMPREPLY=($(compgen -P "${cur%%=*}=" -W 'error warn info debug' -- "${cur#*=}"))
		elif [[ $prev == = || $cur == = ]]; then
			COMPREPLY=($(compgen -W 'error warn info debug' -- "${cur#=}"))
		else
			COMPREPLY=($(compgen -S = -W 'all main config admin chain tunnel tls net' -- "$cur"))
			compopt -o nospace
		fi ;;
	esac
}

complete -F _aditctl aditctl
