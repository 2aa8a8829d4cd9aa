/**
 * What a package's maintainer scripts can be made to do, and the sh(1) text for it. Called by builder.ts. A behaviour
 * acts only when dpkg goes forward (install, upgrade, configure, remove), never while it unwinds a failure, and none
 * outlives its test for long: whatever blocks gives up by itself after ten minutes.
 */
import { unreachable } from '../../protocol/errors.ts'

export const SCRIPT_NAMES = ['preinst', 'postinst', 'prerm', 'postrm'] as const
export type ScriptName = (typeof SCRIPT_NAMES)[number]

/**
 * `script` is `postinst` when left out. A `file` or `marker` is under $DPKG_ROOT; one that begins with `/` is taken
 * as it stands, so that a test can hold its gates outside the root.
 */
export type Behaviour = { readonly script?: ScriptName } & (
  | /** Arrives (`<file>.reached` holds the script's pid), then blocks until `<file>.open` exists. */
    {
      readonly type: 'gate'
      readonly file: string
    } /** The same, and deaf to SIGHUP, SIGINT and SIGTERM: the script that only SIGKILL would end. */
  | { readonly type: 'hang'; readonly file: string }
  | {
      readonly type: 'fail'
      readonly message?: string
      readonly exitCode?: number
    } /** Fails until `marker` exists, which its first failure makes. */
  | {
      readonly type: 'fail-once'
      readonly marker: string
      readonly message?: string
    } /** `<package>: line N of <lines>`, as fast as it goes. */
  | { readonly type: 'chatty'; readonly lines: number } /** Prints RAW_BYTES. */
  | { readonly type: 'raw-bytes' } /** That many `x`, and only then a newline. */
  | {
      readonly type: 'long-line'
      readonly bytes: number
    } /** Asks on stdout, reads a line of stdin, prints what it got. */
  | {
      readonly type: 'prompt'
    } /** Leaves a child in the background that holds stdout and stderr open; its pid is in `file`. */
  | {
      readonly type: 'daemon'
      readonly file: string
    } /** Makes /run/reboot-required and names the package in /run/reboot-required.pkgs, as Debian's hooks do. */
  | { readonly type: 'reboot' } /** Takes so long, in ten steps, and prints each. */
  | { readonly type: 'slow'; readonly seconds: number }
)

/** ANSI colours, a carriage return, NUL, a lone continuation byte, a cut-off UTF-8 sequence, Latin-1; one newline. */
export const RAW_BYTES = Buffer.from('\x1b[31mred\x1b[0m 10%\r100%\0nul \x80 \xe2\x82 caf\xe9 \xff\xfe end\n', 'latin1')

const GIVE_UP_S = 600
const POLL_S = 0.05
/** The arguments with which dpkg goes forward; others belong to its error unwinding (deb-postinst(5) and others). */
const FORWARD: Readonly<Record<ScriptName, string>> = {
  preinst: 'install | upgrade',
  postinst: 'configure',
  prerm: 'remove | upgrade',
  postrm: 'remove | upgrade',
}

/** The whole text of one maintainer script, or nothing when the package needs none. */
export function scriptText(
  script: ScriptName,
  packageName: string,
  behaviours: readonly Behaviour[],
  rawBody: string | undefined,
): string | undefined {
  const mine = behaviours.filter((behaviour) => (behaviour.script ?? 'postinst') === script)
  if (mine.length === 0 && rawBody === undefined) return undefined
  const acts = mine.map((behaviour) => behaviourText(behaviour, packageName)).join('\n')
  const guarded = mine.length === 0 ? '' : `case "$1" in ${FORWARD[script]})\n${acts}\n;; esac\n`
  return `#!/bin/sh\nset -e\n${guarded}${rawBody ?? ''}\n`
}

function behaviourText(behaviour: Behaviour, packageName: string): string {
  switch (behaviour.type) {
    case 'gate':
      return gateText(behaviour.file)
    case 'hang':
      return `trap '' HUP INT TERM\n${gateText(behaviour.file)}`
    case 'fail':
      return failText(behaviour.message ?? `${packageName}: told to fail`, behaviour.exitCode ?? 1)
    case 'fail-once': {
      const fail = failText(behaviour.message ?? `${packageName}: told to fail once`, 1)
      return `${placeText('marker', behaviour.marker)}\nif [ ! -e "$marker" ]; then : > "$marker"; ${fail}; fi`
    }
    case 'chatty':
      return `seq -f ${quote(`${packageName}: line %.0f of ${behaviour.lines}`)} 1 ${behaviour.lines}`
    case 'raw-bytes':
      return `printf ${quote([...RAW_BYTES].map((byte) => `\\${byte.toString(8).padStart(3, '0')}`).join(''))}`
    case 'long-line':
      return `head -c ${behaviour.bytes} /dev/zero | tr '\\0' x; echo`
    case 'prompt':
      return [
        `printf '%s' ${quote(`${packageName}: go on? [y/N] `)}`,
        'if IFS= read -r answer; then echo "got: $answer"; else echo "got: end of file"; fi',
      ].join('\n')
    case 'daemon':
      // A session of its own, as a daemon has, so that the end of apt's pseudo-terminal does not hang it up.
      return `${placeText('pid_file', behaviour.file)}\nsetsid sleep ${GIVE_UP_S} &\necho $! > "$pid_file"`
    case 'reboot':
      return [
        'mkdir -p "$DPKG_ROOT/run"',
        'echo "*** System restart required ***" > "$DPKG_ROOT/run/reboot-required"',
        `echo ${quote(packageName)} >> "$DPKG_ROOT/run/reboot-required.pkgs"`,
      ].join('\n')
    case 'slow': {
      const step = `echo ${quote(packageName)}": step $step of 10"; sleep ${behaviour.seconds / 10}`
      return `for step in 1 2 3 4 5 6 7 8 9 10; do ${step}; done`
    }
    default:
      return unreachable(behaviour)
  }
}

/**
 * A poll and not a fifo: opening it needs no reader, it may be opened before the script arrives, and a test that went
 * away and took `.reached` with it lets the script end.
 */
function gateText(file: string): string {
  return [
    placeText('gate', file),
    'echo $$ > "$gate.new" && mv "$gate.new" "$gate.reached"',
    'polls=0',
    'until [ -e "$gate.open" ]; do',
    '  polls=$((polls + 1))',
    `  if [ $polls -gt ${GIVE_UP_S / POLL_S} ] || [ ! -e "$gate.reached" ]; then`,
    '    echo "gate $gate was given up" >&2; exit 1',
    '  fi',
    `  sleep ${POLL_S}`,
    'done',
  ].join('\n')
}

function failText(message: string, exitCode: number): string {
  return `printf '%s\\n' ${quote(message)} >&2; exit ${exitCode}`
}

/** Sets a shell variable to a place on disk and makes its folder. */
function placeText(variable: string, file: string): string {
  const path = file.startsWith('/') ? quote(file) : `"$DPKG_ROOT"/${quote(file)}`
  return `${variable}=${path}\nmkdir -p "$(dirname "$${variable}")"`
}

function quote(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}
