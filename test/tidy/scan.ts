/**
 * The house rules that no tool of the shelf checks, as pure functions over the texts of files: each takes a path
 * and a text and names what is wrong in it. Called by tidy.test.ts, for the tree and for planted texts.
 */

export type Finding = { readonly path: string; readonly line: number; readonly problem: string }
export type Source = { readonly path: string; readonly text: string }

const UNDONE = /\b(TODO|FIXME|XXX)\b/g
/** A rule may be switched off for one line, by name and with the reason behind two dashes. */
const SWITCHED_OFF =
  /@ts-(ignore|expect-error|nocheck)|(ox|es)lint-disable(?!-next-line \S+ -- \S)|\bas any\b|\.only\(/g
const ELSEWHERE = /\/work\/|\.library\b|\bissue #?[0-9]+\b/gi
const EMPTY_CATCH = new RegExp(
  [
    '\\bcatch\\s*(?:\\([^)]*\\))?\\s*\\{COMMENTS\\}',
    '\\.catch\\(\\s*\\(\\w*\\)\\s*=>\\s*(?:\\{COMMENTS\\}|undefined|null)\\s*\\)',
  ]
    .join('|')
    .replaceAll('COMMENTS', '(?:\\s*//[^\\n]*\\n|\\s*/\\*[^]*?\\*/)*\\s*'),
  'g',
)
/** An idle agent would carry execa for nothing; the wrapper is a program of its own, which starts apt at once. */
const EARLY_EXECA = /^import (?!type ).* from 'execa'/gm
const isAgent = (path: string) => /^agent\/(?!runner\/wrapper\.ts$)/.test(path)
const KEBAB = /^[a-z0-9]+(-[a-z0-9]+)*(\.test)?\.(tsx?|mjs)$/

const isCode = (path: string) => /\.(tsx?|mjs)$/.test(path)

/** Everything that is wrong in one file. */
export function scan(source: Source, bannedWords: readonly string[]): Finding[] {
  const { path, text } = source
  const findings = [
    ...matches(source, UNDONE, (found) => `${found} is left open`),
    ...matches(source, ELSEWHERE, (found) => `${found} means nothing to a reader of the repository`),
    ...bannedWordsIn(source, bannedWords),
  ]
  if (!isCode(path)) return findings
  const name = path.split('/').at(-1) ?? ''
  if (!KEBAB.test(name)) findings.push({ path, line: 1, problem: `${name} is not in kebab-case` })
  if (!/^(#!.*\n(':' .*\n)?\s*)?(\/\*\*|\/\/ )/.test(text))
    findings.push({ path, line: 1, problem: 'the file does not open with a comment that says what it decides' })
  return [
    ...findings,
    ...matches(source, SWITCHED_OFF, (found) => `${found} switches a check off`),
    ...matches(source, EMPTY_CATCH, () => 'an empty catch swallows an error'),
    ...(isAgent(path) ? matches(source, EARLY_EXECA, () => 'execa is imported before it is used') : []),
  ]
}

function matches({ path, text }: Source, pattern: RegExp, problem: (found: string) => string): Finding[] {
  return [...text.matchAll(pattern)].map((match) => ({
    path,
    line: lineAt(text, match.index),
    problem: problem(match[0]),
  }))
}

const lineAt = (text: string, index: number) => text.slice(0, index).split('\n').length

/** Words as people read them: `leaseQueue`, `lease_queue` and `Leases` all hold `lease`. */
function bannedWordsIn({ path, text }: Source, banned: readonly string[]): Finding[] {
  const words = new Map(banned.flatMap((word) => [[word, word] as const, [`${word}s`, word] as const]))
  return text.split('\n').flatMap((line, index) => {
    const parts = line
      .replaceAll(/([a-z0-9])([A-Z])/g, '$1 $2')
      .toLowerCase()
      .split(/[^a-z]+/)
    const found = new Set(parts.flatMap((part) => words.get(part) ?? []))
    return [...found].map((word) => ({
      path,
      line: index + 1,
      problem: `the word ${word} is not ours: docs/GLOSSARY.md says what to call it`,
    }))
  })
}

/** The words of the table `| never | say |` of the glossary. */
export function bannedWordsOf(glossary: string): string[] {
  const table = /\| never \| say \|\n\| --- \| --- \|\n((?:\|.*\|\n?)+)/.exec(glossary)?.[1] ?? ''
  return [...table.matchAll(/^\| (.+?) \|/gm)].map((match) => match[1] ?? '')
}

const RULE = /^- \*\*([A-Z]{2,4}-[0-9]+)\*\* (.*)$/gm
const CLAIM = /['"`]\[([A-Z]{2,4}-[0-9]+)\]/g

/** The rules of SPEC.md with their texts, in the order written. */
export function rulesOf(spec: string): { readonly id: string; readonly text: string }[] {
  return [...spec.matchAll(RULE)].map((match) => ({ id: match[1] ?? '', text: match[2] ?? '' }))
}

/** The rules that the names of tests claim. */
export function claimsOf(test: string): string[] {
  return [...new Set([...test.matchAll(CLAIM)].map((match) => match[1] ?? ''))]
}

/** What is wrong between the rules and the tests that claim them. */
export function coverage(spec: string, tests: readonly Source[]): string[] {
  const rules = rulesOf(spec)
  const ids = rules.map((rule) => rule.id)
  const known = new Set(ids)
  const claimed = new Map(tests.flatMap(({ path, text }) => claimsOf(text).map((id) => [id, path] as const)))
  return [
    ...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `${id} stands twice in docs/SPEC.md`),
    ...ids.filter((id) => !claimed.has(id)).map((id) => `${id} is claimed by no test`),
    ...[...claimed]
      .filter(([id]) => !known.has(id))
      .map(([id, path]) => `${id} is claimed by ${path} and is no rule of docs/SPEC.md`),
    ...rules.filter((rule) => !rule.text.trimEnd().endsWith('.')).map((rule) => `${rule.id} is no whole sentence`),
    ...tests.filter(({ text }) => claimsOf(text).length === 0).map(({ path }) => `${path} claims no rule`),
  ]
}
