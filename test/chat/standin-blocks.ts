/** The sizes of Slack's blocks, which its client libraries do not check and Slack does. Used by standin.ts. */
/** JSON as it comes and goes: Slack's answers are as loose as this. */
// oxlint-disable-next-line typescript/no-explicit-any -- what a test names of it is there when it is compared, or is not
export type Loose = any

const ALL_TEXT_MAX = 13_200

/** The error that Slack would answer, null when it takes them. */
export function blocksProblem(blocks: readonly Loose[]): string | null {
  if (blocks.length > 50) return 'invalid_blocks'
  if (JSON.stringify(blocks).length > ALL_TEXT_MAX) return 'msg_blocks_too_long'
  return blocks.every(isBlock) ? null : 'invalid_blocks'
}

function isBlock(block: Loose): boolean {
  if (block.type === 'section') return isText(block.text, 3000)
  if (block.type !== 'actions' || block.elements.length > 25) return false
  const names = block.elements.map((element: Loose) => element.action_id)
  return new Set(names).size === names.length && block.elements.every(isButton)
}

function isButton(button: Loose): boolean {
  const { confirm } = button
  const asksWell =
    confirm === undefined ||
    (isText(confirm.title, 100) && isText(confirm.text, 300) && isText(confirm.confirm, 30) && isText(confirm.deny, 30))
  return (
    isText(button.text, 75) && String(button.value).length <= 2000 && String(button.action_id).length <= 255 && asksWell
  )
}

function isText(text: Loose, max: number): boolean {
  return typeof text?.text === 'string' && text.text.length > 0 && text.text.length <= max
}
