#!/usr/bin/env bash
# Make what is vendored from the packages that package-lock.json pins: `make vendor`. Needs npm; works in build/vendor.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1
fonts='Main-Regular Main-Bold Main-Italic Math-Italic Math-BoldItalic AMS-Regular Caligraphic-Regular SansSerif-Regular
       Size1-Regular Size2-Regular Size3-Regular Size4-Regular Typewriter-Regular'

mkdir -p "$work" "$here/fonts"
cp "$here/package.json" "$here/package-lock.json" "$here/editor.mjs" "$work"
cd "$work"
npm ci --silent --no-audit --no-fund
npx esbuild editor.mjs --bundle --minify --format=iife --global-name=editor --target=es2020 --legal-comments=none \
  --log-level=warning --outfile="$here/editor.js"
cp node_modules/katex/dist/katex.min.js "$here/katex.js"
cp node_modules/katex/dist/katex.min.css "$here/katex.css"
for font in $fonts; do cp "node_modules/katex/dist/fonts/KaTeX_$font.woff2" "$here/fonts/"; done

# One licence file a package, under its name and version.
for folder in node_modules/*/ node_modules/@*/*/; do
  case $folder in node_modules/@*/ ) [ -f "$folder/package.json" ] || continue ;; esac
  case $folder in *esbuild* | node_modules/commander/ ) continue ;; esac
  licence=$(find "$folder" -maxdepth 1 -iname 'licen[sc]e*' | head -1)
  [ -n "$licence" ] || { echo "$folder has no licence file" >&2; exit 1; }
  node -p "const p = require('./$folder/package.json'); '== ' + p.name + ' ' + p.version + ' (' + p.license + ')'"
  echo
  cat "$licence"
  echo
done > "$here/LICENSES.txt"
