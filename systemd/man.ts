/**
 * Man pages, in man(7), out of the very command trees that the programs run: no verb or option is forgotten. Called by
 * contents.ts. Pure: text in, text out.
 */
import type { Command } from 'commander'

export type Page = {
  readonly name: string
  readonly section: 1 | 5 | 8
  /** Its date, in milliseconds. */
  readonly at: number
  readonly version: string
}

/** What no command tree says: headings with their text, in order. A line that begins with a blank stands as it is. */
export type Notes = Readonly<Record<string, string>>

/** The page of a program; the verbs of `root` each have a part of their own. */
export function programPage(page: Page, root: Command, notes: Notes): string {
  const verbs = verbsOf(root, root.name())
  const options = optionsOf(root)
  return [
    heading(page, root.description()),
    '.SH SYNOPSIS',
    ...(verbs.length === 0 ? [synopsis(root, page.name)] : [`.B ${quiet(page.name)}\n.I verb\n[options] [arguments]`]),
    '.SH DESCRIPTION',
    said(root.description()),
    ...(verbs.length === 0 ? details(root) : []),
    ...(verbs.length === 0
      ? []
      : ['.SH VERBS', ...verbs.flatMap(({ verb, path }) => [part(path), ...body(verb, path)])]),
    ...(verbs.length === 0 || options.length === 0 ? [] : ['.SH OPTIONS OF EVERY VERB', ...options]),
    ...noted(notes),
  ].join('\n')
}

/** A page that shows a text as it is. */
export function textPage(page: Page, about: string, text: string, notes: Notes): string {
  return [heading(page, about), '.SH DESCRIPTION', verbatim(text), ...noted(notes)].join('\n')
}

function heading({ name, section, at, version }: Page, about: string): string {
  const day = new Date(at).toISOString().slice(0, 10)
  const line = about.replace(/\.$/, '').replace(/^./, (first) => first.toLowerCase())
  return `.TH ${name.toUpperCase()} ${section} ${day} "smith ${version}"\n.SH NAME\n${quiet(name)} \\- ${said(line)}`
}

function verbsOf(command: Command, path: string): { verb: Command; path: string }[] {
  return command.commands
    .filter((sub) => !sub.name().startsWith('__'))
    .flatMap((sub) => {
      const own = `${path} ${sub.name()}`
      return sub.commands.length > 0 ? verbsOf(sub, own) : [{ verb: sub, path: own }]
    })
}

function part(path: string): string {
  return `.SS ${quiet(path.split(' ').slice(1).join(' '))}`
}

function body(verb: Command, path: string): string[] {
  return [synopsis(verb, path), '.PP', said(verb.description()), ...details(verb)]
}

function synopsis(command: Command, path: string): string {
  const words = command.registeredArguments.map((one) => {
    const name = `${one.name()}${one.variadic ? '...' : ''}`
    return one.required ? `<${name}>` : `[${name}]`
  })
  const after = [...(command.options.length > 0 ? ['[options]'] : []), ...words].join(' ')
  return `.B ${quiet(path)}${after === '' ? '' : `\n${quiet(after)}`}`
}

function details(command: Command): string[] {
  const places = command.registeredArguments
    .filter((one) => one.description !== '')
    .map((one) => `.TP\n.I ${quiet(one.name())}\n${said(one.description)}`)
  const after = afterOf(command)
  return [...places, ...optionsOf(command), ...(after === '' ? [] : ['.PP', verbatim(after)])]
}

function optionsOf(command: Command): string[] {
  return command.options
    .filter((option) => !option.hidden)
    .map((option) => {
      const byDefault = option.defaultValue === undefined ? '' : ` (by default ${String(option.defaultValue)})`
      return `.TP\n.B ${quiet(option.flags)}\n${said(`${option.description}${byDefault}`)}`
    })
}

/** What is shown after the help proper: examples and keys. */
function afterOf(command: Command): string {
  let whole = ''
  const before = command.configureOutput()
  command.configureOutput({ ...before, writeOut: (text) => (whole += text) })
  command.outputHelp()
  command.configureOutput(before)
  return whole.slice(command.helpInformation().length).trim()
}

function noted(notes: Notes): string[] {
  return Object.entries(notes).flatMap(([title, text]) => [
    `.SH ${title.toUpperCase()}`,
    ...text
      .trim()
      .split('\n')
      .map((line) => (line.startsWith(' ') ? `.br\n${quiet(line)}` : said(line))),
  ])
}

function verbatim(text: string): string {
  return `.nf\n${text.trimEnd().split('\n').map(quiet).join('\n')}\n.fi`
}

/** Nothing of it is a request or an escape to roff, and its hyphens can be copied. */
function quiet(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^(?=[.'])/, '\\&')
}

function said(text: string): string {
  return quiet(text).replaceAll('\n', ' ')
}
