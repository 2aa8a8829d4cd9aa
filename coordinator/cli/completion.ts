/**
 * Completion scripts for bash, zsh and fish, made from the command tree, so that no verb or option is forgotten;
 * names of machines and numbers of changes come from the coordinator through the hidden verb `__complete`. Called
 * by the verb `completion`. A coordinator out of reach makes a completion empty, never slow or loud.
 */
import type { Argument, Command } from 'commander'

export const SHELLS = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof SHELLS)[number]
export const PROGRAMS = ['smith', 'smith-patch', 'smith-status'] as const

/** One verb as completion sees it. `places` says for each argument what may stand there. */
type Leaf = {
  readonly path: string
  readonly words: readonly string[]
  readonly places: readonly Place[]
  readonly valued: readonly string[]
}
type Place = 'change' | 'schedule' | 'machine' | 'change-or-machine' | 'words' | 'file' | 'shell' | 'none'

export function completionScript(shell: Shell, root: Command): string {
  const leaves = leavesOf(root, [])
  switch (shell) {
    case 'bash':
      return bashScript(leaves)
    case 'zsh':
      return zshScript(leaves)
    case 'fish':
      return fishScript(leaves)
  }
}

function leavesOf(command: Command, path: readonly string[]): Leaf[] {
  const visibleSubs = command.commands.filter((sub) => !sub.name().startsWith('__'))
  const options = command.options.filter((option) => !option.hidden).map((option) => option.long ?? '')
  const own: Leaf = {
    path: path.join(' '),
    words: [...visibleSubs.map((sub) => sub.name()), ...options, '--help'].filter((word) => word !== ''),
    places: command.registeredArguments.map(placeOf),
    valued: command.options.filter((option) => option.required).map((option) => option.long ?? ''),
  }
  return [own, ...visibleSubs.flatMap((sub) => leavesOf(sub, [...path, sub.name()]))]
}

function placeOf(argument: Argument): Place {
  switch (argument.name()) {
    case 'change':
      return 'change'
    case 'schedule':
      return 'schedule'
    case 'machine':
    case 'pattern':
      return 'machine'
    case 'change-or-machine':
      return 'change-or-machine'
    case 'words':
      return 'words'
    case 'file':
      return 'file'
    case 'shell':
      return 'shell'
    default:
      return 'none'
  }
}

/** The shell code shared by bash and zsh: finds the verb, then what may stand at the place of the cursor. */
function caseArms(leaves: readonly Leaf[]): string {
  const arms = leaves.map((leaf) => {
    const places = leaf.places.map(
      (place, index) => `      ${index + 1}${place === 'words' ? '*' : ''}) kind=${place} ;;\n`,
    )
    const body = places.length === 0 ? '' : `    case $place in\n${places.join('')}    esac\n`
    const anyPlace = leaf.places.includes('words') ? '    kind=words\n' : body
    return `  '${leaf.path}')\n    choices='${leaf.words.join(' ')}'\n${anyPlace}    ;;\n`
  })
  return `  case $verb in\n${arms.join('')}  esac`
}

const verbPattern = (leaves: readonly Leaf[]) =>
  leaves
    .filter((leaf) => leaf.path !== '')
    .map((leaf) => `'${leaf.path}'`)
    .join('|')

/** Options that take a value, so that the value is not counted as a word of the verb. */
const valuedPattern = (leaves: readonly Leaf[]) => [...new Set(leaves.flatMap((leaf) => leaf.valued))].join('|')

function findVerb(leaves: readonly Leaf[]): string {
  return `  local verb='' place=1 kind=none choices='' skip=0 word
  case $program in smith-patch) verb=patch ;; smith-status) verb=status ;; esac
  for word in "\${before[@]}"; do
    if [ $skip = 1 ]; then skip=0; continue; fi
    case $word in
      ${valuedPattern(leaves)}) skip=1; continue ;;
      -*) continue ;;
    esac
    case "\${verb:+$verb }$word" in
      ${verbPattern(leaves)}) verb="\${verb:+$verb }$word" ;;
      *) place=$((place + 1)) ;;
    esac
  done
${caseArms(leaves)}
  case $kind in
    change) choices="$choices $(smith __complete changes 2>/dev/null)" ;;
    schedule) choices="$choices $(smith __complete schedules 2>/dev/null)" ;;
    machine) choices="$choices $(smith __complete machines 2>/dev/null)" ;;
    change-or-machine) choices="$choices $(smith __complete changes 2>/dev/null) $(smith __complete machines 2>/dev/null)" ;;
    words) choices="$choices prod machines: outage: except: $(smith __complete machines 2>/dev/null)" ;;
    shell) choices="$choices ${SHELLS.join(' ')}" ;;
  esac`
}

function bashScript(leaves: readonly Leaf[]): string {
  return `# Completion of smith for bash: source it, or keep it as /etc/bash_completion.d/smith
_smith() {
  local program=\${1##*/} current=\${COMP_WORDS[COMP_CWORD]} before=("\${COMP_WORDS[@]:1:COMP_CWORD-1}")
${findVerb(leaves)}
  [ "$current" = : ] && current=''
  COMPREPLY=($(compgen -W "$choices" -- "$current"))
  if [ $kind = file ]; then COMPREPLY+=($(compgen -f -- "$current")); fi
}
complete -F _smith ${PROGRAMS.join(' ')}
`
}

function zshScript(leaves: readonly Leaf[]): string {
  return `#compdef ${PROGRAMS.join(' ')}
# Completion of smith for zsh: keep it as _smith in a folder of $fpath, or source it after compinit
_smith() {
  local program=\${words[1]:t}
  local -a before list
  before=("\${(@)words[2,CURRENT-1]}")
  _smith_find() {
${findVerb(leaves)}
  REPLY=$choices
  REPLY_KIND=$kind
  }
  local REPLY REPLY_KIND
  _smith_find
  list=(\${=REPLY})
  compadd -- $list
  if [ $REPLY_KIND = file ]; then _files; fi
}
if [ "$funcstack[1]" = _smith ]; then _smith "$@"; else compdef _smith ${PROGRAMS.join(' ')}; fi
`
}

function fishScript(leaves: readonly Leaf[]): string {
  const lines = ['# Completion of smith for fish: keep it as ~/.config/fish/completions/smith.fish']
  for (const leaf of leaves) {
    const path = leaf.path.split(' ').filter((word) => word !== '')
    const seen = path.map((word) => `__fish_seen_subcommand_from ${word}`).join('; and ')
    const subs = leaf.words.filter((word) => !word.startsWith('-'))
    const none = subs.length > 0 ? `not __fish_seen_subcommand_from ${subs.join(' ')}` : ''
    const condition = [seen, none].filter((part) => part !== '').join('; and ')
    const when = condition === '' ? '' : ` -n '${condition}'`
    const files = leaf.places.includes('file') ? '' : ' -f'
    if (subs.length > 0) lines.push(`complete -c smith${files}${when} -a '${subs.join(' ')}'`)
    for (const word of leaf.words.filter((one) => one.startsWith('--'))) {
      lines.push(`complete -c smith${files}${seen === '' ? '' : ` -n '${seen}'`} -l ${word.slice(2)}`)
    }
    for (const place of leaf.places) {
      const source = fishSource(place)
      if (source !== '') lines.push(`complete -c smith${files}${when} -a '${source}'`)
    }
  }
  const verbs = { 'smith-patch': 'machines', 'smith-status': 'changes' }
  for (const [program, kind] of Object.entries(verbs)) {
    lines.push(`complete -c ${program} -f -a '(smith __complete ${kind} 2>/dev/null)'`)
  }
  return `${lines.join('\n')}\n`
}

function fishSource(place: Place): string {
  switch (place) {
    case 'change':
      return '(smith __complete changes 2>/dev/null)'
    case 'schedule':
      return '(smith __complete schedules 2>/dev/null)'
    case 'machine':
      return '(smith __complete machines 2>/dev/null)'
    case 'change-or-machine':
      return '(smith __complete changes 2>/dev/null) (smith __complete machines 2>/dev/null)'
    case 'words':
      return 'prod machines: outage: (smith __complete machines 2>/dev/null)'
    case 'shell':
      return SHELLS.join(' ')
    case 'file':
    case 'none':
      return ''
  }
}
