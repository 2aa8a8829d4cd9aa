#!/bin/sh
':' //; here=$(dirname -- "$(readlink -f -- "$0")"); PATH="$here/../node_modules/.bin:$PATH" exec node --import="$here/cli/node-version.mjs" "$0" "$@"

/**
 * The program `smith-coordinator`. The line above is a string to Node and the start of Node to a shell: it takes the
 * checkout's own Node where there is one, and says clearly when the version will not do.
 */
const { main } = await import('./program.ts')
await main(process.argv.slice(2))
