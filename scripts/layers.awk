# Does every file include only what its layer may? (docs/ARCHITECTURE.md; the higher number includes the lower one)
#
#   awk -f scripts/layers.awk FILES...
#
# Prints file:line: reason, for each include that points up or sideways; exit status 1 if there is one.

BEGIN {
	layer["base"] = 0
	layer["model"] = 1
	layer["codec"] = layer["policy"] = 2
	layer["loop"] = 3
	layer["h2"] = layer["tls"] = layer["kern"] = layer["net"] = 4
	layer["tunnel"] = layer["http"] = layer["meta"] = layer["obs"] = 5
	layer["chain"] = 6
	layer["config"] = layer["admin"] = 7
	layer["control"] = 8
	main_layer = 8
}

function bad(why)
{
	printf "%s:%d: %s\n", FILENAME, FNR, why
	found = 1
}

FNR == 1 {
	n = split(FILENAME, part, "/")
	top = part[1]
	own = n > 2 ? part[2] : ""
	if (top == "daemon" && own != "" && !(own in layer))
		bad("daemon/" own " is in no layer; add it to scripts/layers.awk and to docs/ARCHITECTURE.md")
}

/^[ \t]*#[ \t]*include[ \t]*"/ {
	what = $0
	sub(/^[^"]*"/, "", what)
	sub(/".*/, "", what)
	if (what ~ /\.\.\//) {
		bad("include \"" what "\": no way up by ../")
		next
	}
	if (what !~ /\//)
		next			# beside this file
	folder = what
	sub(/\/.*/, "", folder)
	if (folder == "adit" || folder == own)
		next

	if (top == "ctl") {
		if (folder != "base" && folder != "model" && folder != "config" && folder != "ctl")
			bad("include \"" what "\": ctl/ may include base/, model/, config/ and adit/ only")
	} else if (top == "include") {
		bad("include \"" what "\": include/adit/ may include adit/ only")
	} else if (top == "bpf") {
		bad("include \"" what "\": bpf/ may include its own folder and adit/ only")
	} else if (top == "daemon") {
		if (!(folder in layer))
			bad("include \"" what "\": no such layer")
		else if (own == "")	# main.c
			next
		else if (layer[folder] > layer[own])
			bad("include \"" what "\": layer " layer[folder] " is above " own "/ (" layer[own] ")")
		else if (layer[folder] == layer[own])
			bad("include \"" what "\": sideways, both are layer " layer[own])
	}
}

END {
	exit found
}
