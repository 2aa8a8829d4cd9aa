/**
 * The man pages and completions of the packages, where man and the shells look for them. Called by package.ts; each is
 * made of what its program runs or reads.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import type { Command } from 'commander'
import { buildProgram as buildAgent } from '../agent/program.ts'
import { PROGRAMS, type Shell, completionScript } from '../coordinator/cli/completion.ts'
import { buildProgram as buildCli } from '../coordinator/cli/program.ts'
import { configReferenceText } from '../coordinator/config.ts'
import { buildProgram as buildCoordinator } from '../coordinator/program.ts'
import { CHECKOUT } from './bundles.ts'
import type { PackageName } from './contents.ts'
import type { Entry } from './deb.ts'
import { type Page, programPage, textPage } from './man.ts'

const STATUS = `
  0  done; of a patch that was waited for: every machine passed
  1  refused or failed; the line after "do:" says what to do
  2  the words were wrong
  3  the coordinator is out of reach; nobody knows whether it was done
  130  interrupted
`
const CLI_NOTES = {
  'exit status': STATUS,
  environment: 'With NO_COLOR set, and where the output is no terminal, nothing is coloured.',
  files: `
  ~/.config/smith/config.toml  the coordinators and the tokens, written by smith login
  /run/smith-coordinator/admin.sock  root on the coordinator's own machine needs no token
`,
}
const OPERATION_NOTES = { 'exit status': '  0  done\n  1  refused or failed\n  2  the words were wrong\n' }

/** One page of man(7); `made` is its time and version. */
type Made = Pick<Page, 'at' | 'version'>

export function helpFilesOf(name: PackageName, made: Made): Entry[] {
  const pages = name === 'smith-agent' ? agentPages(made) : coordinatorPages(made)
  return [
    ...pages.map(({ page, text }) => ({
      path: `/usr/share/man/man${page.section}/${page.name}.${page.section}.gz`,
      mode: 0o644,
      bytes: gzipSync(text, { level: 9 }),
    })),
    ...(name === 'smith-agent' ? [] : completions()),
  ]
}

function completions(): Entry[] {
  const script = (path: string, shell: Shell) => ({ path, mode: 0o644, bytes: completionScript(shell, commandTree()) })
  return [
    // bash looks for a file of the program's own name.
    ...PROGRAMS.map((program) => script(`/usr/share/bash-completion/completions/${program}`, 'bash')),
    script('/usr/share/zsh/vendor-completions/_smith', 'zsh'),
    script('/usr/share/fish/vendor_completions.d/smith.fish', 'fish'),
  ]
}

function commandTree(): Command {
  return buildCli({ context: () => never(), status: 0 })
}

type Written = { readonly page: Page; readonly text: string }

function agentPages(made: Made): Written[] {
  const program: Page = { ...made, name: 'smith-agent', section: 8 }
  const config: Page = { ...made, name: 'smith-agent.toml', section: 5 }
  const tree = buildAgent(new Writable(), { status: 0 })
  const example = readFileSync(join(CHECKOUT, 'systemd/agent/agent.toml'), 'utf8')
  const files = `
  /etc/smith/agent.toml  the configuration, smith-agent.toml(5)
  /etc/smith/repos/  what the names of builds mean on this machine
  /etc/smith/checks.d/pre, post  checks before and after each run
  /opt/smith-agent.log  every line of every run
  /var/lib/smith/  orders, downloads, identity
`
  const status = `${OPERATION_NOTES['exit status']}  3  the coordinator is out of reach\n`
  const seeAlso = { 'see also': 'smith-agent.toml(5), smith(1), smith-coordinator(8)' }
  return [
    { page: program, text: programPage(program, tree, { 'exit status': status, files, ...seeAlso }) },
    {
      page: config,
      text: textPage(config, 'the configuration of smith-agent', example, {
        files: 'It is read from /etc/smith/agent.toml when the agent or the runner starts.',
        'see also': 'smith-agent(8)',
      }),
    },
  ]
}

function coordinatorPages(made: Made): Written[] {
  const cli = commandTree()
  const verb = (name: string) => cli.commands.find((one) => one.name() === name) ?? never()
  const own = (name: string, section: Page['section'], tree: Command, notes: Readonly<Record<string, string>>) => {
    const page: Page = { ...made, name, section }
    return { page, text: programPage(page, tree, notes) }
  }
  const config: Page = { ...made, name: 'smith-coordinator.toml', section: 5 }
  const short = {
    options: 'The options of every verb of smith(1) are taken too.',
    ...CLI_NOTES,
    'see also': 'smith(1)',
  }
  return [
    own('smith', 1, cli, { ...CLI_NOTES, 'see also': 'smith-patch(1), smith-status(1), smith-coordinator(8)' }),
    own('smith-patch', 1, verb('patch'), short),
    own('smith-status', 1, verb('status'), short),
    own('smith-coordinator', 8, buildCoordinator(), {
      ...OPERATION_NOTES,
      files: `
  /etc/smith/coordinator.toml  the configuration, smith-coordinator.toml(5)
  /var/lib/smith-coordinator/  the database and the keys
`,
      'see also': 'smith-coordinator.toml(5), smith(1), smith-agent(8)',
    }),
    {
      page: config,
      text: textPage(config, 'the configuration of smith-coordinator', configReferenceText(), {
        files: 'It is read from /etc/smith/coordinator.toml when the coordinator starts.',
        'see also': 'smith-coordinator(8)',
      }),
    },
  ]
}

function never(): never {
  throw new Error('a page is made of what a program is, and runs nothing of it')
}
