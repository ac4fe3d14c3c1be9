"""Write a small data set of the kind that a team annotates by hand, for docs/your-data.md.

    python examples/own_data.py own/

It has 12 long documents (yearly reports of invented organisations) and 150 questions, a quarter of which the document
does not answer. The split is by document: 8 documents in `own/train.json`, 4 in `own/validation.json`, both as SQuAD v2
JSON. Three annotations are wrong on purpose, as happens by hand: see MISTAKES. The same seed writes the same files.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ORGANISATIONS = (
    ("Lindholm", "the ferry"), ("Askby", "the waterworks"), ("Norre", "the library"), ("Kaldvig", "the observatory"),
    ("Torp", "the orchard"), ("Udsigt", "the railway"), ("Vester", "the theatre"), ("Havn", "the botanical garden"),
    ("Mosebro", "the fire brigade"), ("Stenvik", "the sailing school"), ("Ravnlund", "the brickworks"),
    ("Elsted", "the mill"),
)  # fmt: skip
VALIDATION = 4
QUESTIONS = 150
UNANSWERABLE = 38
# What is wrong with three of the training questions: the answer's start, its spelling, and an answer left empty.
MISTAKES = ("answer_start is 7 characters too large", "the answer is spelt otherwise", "the answer is an empty text")

FIRST = "Ane Jon Mette Ole Ida Per Eva Nis Karen Lars Signe Bo Tove Emil Ruth Anton Gerda Viggo Ellen Knud".split()  # noqa: SIM905
LAST = "Skou Brandt Lund Friis Holm Dahl Krag Bov Ravn Juhl Toft Winther Bang Kjær Mørk Storm Vang Due Aagaard".split()  # noqa: SIM905
TOWNS = "Hammerby Egense Vrold Sandvig Østerby Fjelsted Grimstrup Nakkehage Tolne Rødvig Skelby Bredal".split()  # noqa: SIM905
MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905
TRADES = ("ship's carpenter", "schoolteacher", "midwife", "grocer", "land surveyor", "clockmaker", "notary", "weaver")


@dataclass(frozen=True)
class Fact:
    """A kind of fact that a report may state.

    Attributes:
        section: Its heading.
        question: `{the}` is the organisation.
        sentences: Ways to state it; `{v}` is the answer.
        values: A name in `Draw`, or the possible answers separated by `|`.
    """

    section: str
    question: str
    sentences: tuple[str, ...]
    values: str


def facts(section: str, *rows: tuple[str, str, str, str]) -> list[Fact]:
    """The facts of a section, each with two sentences."""
    return [Fact(section, question, (first, second), values) for question, first, second, values in rows]


FACTS = [
    *facts(
        "Beginnings",
        ("In which year was {the} founded?", "{The} opened in the spring of {v}, after two winters of petitions.",
         "The town council signed the charter in {v}, by a majority of one vote.", "year"),
        ("Who had the idea of founding {the}?", "The plan came from {v}, a {trade} who paid for the first survey.",
         "Year after year {v}, a retired {trade}, had pressed the council to begin.", "person"),
        ("Where did the first committee meet?", "In the early days the committee met in {v}, by lamplight.",
         "For want of a room of its own, the committee first sat in {v}.",
         "the back room of the bakery|a disused net loft|the vestry of the old church|a barn behind the post office"),
        ("How much was borrowed at the start?", "A savings bank in {town} lent {v} at four per cent.",
         "The first debt, {v}, was taken up in {town} and paid back within a generation.", "money"),
        ("What does the emblem show?", "The seal, which is still used on letters, shows {v}.",
         "Above the door hangs the emblem: {v}, carved in oak.",
         "a heron above two waves|three keys on a ring|a ladder and a lantern|an open hand with seeds"),
        ("Why was work stopped in the second year?", "In the second year everything was halted because {v}.",
         "Work was broken off in the second year, since {v}.",
         "the contractor went bankrupt|the foundations flooded|lightning struck the store|the timber was stolen"),
    ),
    *facts(
        "People",
        ("Who leads {the} today?", "Since last autumn {v} has been in charge, the first to be elected by all staff.",
         "All staff took part in the vote by which {v} became director last autumn.", "person"),
        ("Who retired as director?", "{v}, who had led {the} for eleven years, retired to {town}.",
         "A dinner was held for {v}, who gave up the office of director after eleven years.", "person"),
        ("How many people are employed?", "At the end of the year {v} people were on the payroll.",
         "The payroll of December lists {v} people, four of whom work part-time.", "small"),
        ("Which apprentice passed with distinction?", "Among the apprentices {v} passed with distinction.",
         "The trade examination was passed by all apprentices, and by {v} with distinction.", "person"),
        ("Who is the oldest volunteer?", "{v}, now ninety-one, is the oldest volunteer and comes every Thursday.",
         "No volunteer is older than {v}, who turned ninety-one in {month}.", "person"),
        ("What was the subject of the course for staff?", "This year's course for all staff was on {v}.",
         "For two days all staff were taught {v} by a guest from {town}.",
         "first aid at sea|the care of old varnish|reading ground-water charts|speaking before a public"),
    ),
    *facts(
        "Premises",
        ("What is the roof made of?", "After the storm the roof was relaid with {v}.",
         "The old roof gave way to one of {v}, which is expected to last sixty years.",
         "Welsh slate|larch shingles|glazed tiles|sheets of zinc|copper"),
        ("How long is the main building?", "From gable to gable the main building measures {v}.",
         "The main building is {v} long and less than half as wide.", "metres"),
        ("Who designed the new wing?", "The new wing, which {v} drew in a single week, was praised in the papers.",
         "For the new wing the jury chose a design by {v}.", "person"),
        ("What is stored in the cellar?", "The cellar serves as a store for {v}.",
         "Visitors are seldom shown the cellar, which is full of {v}.",
         "old account books|empty cider barrels|rope and canvas|seed potatoes|glass negatives"),
        ("Which tree stands in the yard?", "In the yard stands {v} that is older than the house.",
         "The yard is shaded by {v}, under which the staff eat in summer.",
         "a walnut tree|a copper beech|a mulberry tree|a Turkish hazel|a wych elm"),
        ("How are the rooms heated?", "Since the boiler was scrapped, warmth has come from {v}.",
         "The rooms are heated by {v}, which has halved the bill.",
         "a heat pump in the harbour|a straw-fired furnace|the brewery next door|solar panels on the shed"),
        ("Who owns the land?", "The ground itself belongs to {v} and is leased for ninety-nine years.",
         "A lease of ninety-nine years was signed with {v}, the owner of the ground.",
         "the Harbour Board|the state forestry office|the parish council|the Widows' Fund"),
    ),
    *facts(
        "Money",
        ("How large was the income of the year?", "Income came to {v} in all, a little more than had been hoped.",
         "The books close with an income of {v}.", "money"),
        ("What was the largest expense?", "By far the largest expense was {v}.",
         "Nothing cost as much as {v}, which took a third of the budget.",
         "the new drainage|the lift for wheelchairs|the rewiring of the hall|the repair of the quay"),
        ("Who left {the} a legacy?", "A legacy of unusual size came from {v}, a {trade} in {town}.",
         "In the will of {v}, {the} was remembered before all nephews.", "person"),
        ("What does a yearly subscription cost?", "A yearly subscription was kept at {v}, although prices rose.",
         "Subscribers pay {v} a year, which has not changed for a decade.", "fee"),
        ("Which company insures the buildings?", "The insurance of the buildings was moved to {v}.",
         "{v}, with whom the buildings are insured, asked for a second fire door.",
         "Nordlys Mutual|the Farmers' Fire Office|Baltic & Provincial|Tryg og Rolig"),
        ("How high was the fine?", "The inspectorate imposed a fine of {v} for late papers.",
         "For papers that were sent too late {the} was fined {v}, and paid under protest.", "fee"),
    ),
    *facts(
        "Equipment",
        ("Which firm built the main machine?", "The main machine, built by {v}, has run without a major repair.",
         "A brass plate names {v} as the makers of the main machine.",
         "Burmeister & Sons|the Tolne Ironworks|Hald and Petersen|Maskinfabrik Vidar"),
        ("What do the staff call the main machine?", "Among the staff the machine is known as {v}.",
         "Nobody uses its number: to everybody the machine is {v}.",
         "the Duchess|Old Thunder|the Grey Goose|Uncle Frederik|the Samovar"),
        ("How powerful is the motor?", "Its motor is rated at {v}.", "A motor of {v} drives it.", "power"),
        ("Which part was ordered from abroad?", "One part, {v}, had to be ordered from abroad.",
         "Eight weeks went by before {v} arrived from abroad.",
         "a bronze bearing|the pressure valve|a lens of flint glass|the crown wheel"),
        ("How much fuel was used?", "In twelve months {v} of fuel were burnt.",
         "The use of fuel fell to {v}, the lowest figure on record.", "litres"),
        ("What colour are the doors?", "The doors were painted {v}, as an old photograph had shown them.",
         "After a long debate {v} was chosen for the doors.",
         "bottle green|oxblood red|mustard yellow|slate blue"),
    ),
    *facts(
        "Guests",
        ("How many visitors came?", "The counter at the gate showed {v} visitors.",
         "In all {v} visitors were let in, school classes not included.", "thousands"),
        ("Which day was the busiest?", "No day was busier than {v}, when the queue reached the bridge.",
         "The record for a single day was set on {v}.", "date"),
        ("From where did the guest with the longest journey come?", "A teacher from {v} had travelled furthest.",
         "The guest book holds a greeting from {v}, further away than any other.",
         "Valparaíso|Hokkaido|Tasmania|Nairobi|Winnipeg"),
        ("Which prize did {the} receive?", "In {month} {the} was given {v}.",
         "A letter in {month} brought the news that {v} had been awarded to {the}.",
         "the Coastal Heritage Medal|the Silver Oar|the Prize for Quiet Work|the Province's Badge of Merit"),
        ("What was served at the summer party?", "At the summer party {v} was served to all who had lent a hand.",
         "Helpers were thanked with {v} at the summer party.",
         "smoked eel on rye|elderflower ice|roast lamb with mint|pancakes with cloudberries"),
        ("Which animals moved in under the eaves?", "Under the eaves {v} have moved in.",
         "School classes come to see {v} that nest under the eaves.",
         "a pair of kestrels|two barn owls|a family of stoats|forty house martins"),
    ),
    *facts(
        "Incidents",
        ("On which date did the fire break out?", "A fire broke out in the workshop on {v}.",
         "The workshop caught fire on {v} and was saved within the hour.", "date"),
        ("Who noticed the fire first?", "The smoke was noticed by {v}, on the way home from choir practice.",
         "It was {v} who saw the flames first and rang the bell.", "person"),
        ("How long did {the} stay closed after the storm?", "After the storm {the} stayed closed for {v}.",
         "It took {v} after the storm before {the} could open again.",
         "nine days|three weeks|eleven days|two months|a fortnight"),
        ("What did the flood carry away?", "The flood carried away {v}, which has not been seen since.",
         "When the water fell, {v} was gone.",
         "the garden pavilion|a rowing boat|the bicycle shed|a load of planks"),
    ),
    *facts(
        "Rules",
        ("From which age may children come alone?", "Children may come unaccompanied from the age of {v}.",
         "Whoever is younger than {v} must bring an adult.", "age"),
        ("What is forbidden on the upper floor?", "On the upper floor {v} is forbidden.",
         "A sign on the upper floor asks guests to refrain from {v}.",
         "photography|whistling|the use of ink|wearing wooden shoes|feeding the birds"),
        ("Who deals with complaints?", "Complaints go to {v}, who must reply within ten days.",
         "Within ten days {v} answers every complaint in writing.", "person"),
    ),
    *facts(
        "Plans",
        ("What will be built next?", "The next thing to be built is {v}, if the permit is granted.",
         "Drawings for {v} have been sent to the planning office.",
         "a covered landing stage|a reading room|a second greenhouse|a workshop for schools"),
        ("When will the extension be finished?", "The extension is meant to be ready by {v}.",
         "Nobody expects the extension to be complete before {v}.", "season"),
        ("Which university takes part in the study of the subsoil?", "The study of the subsoil is led by {v}.",
         "Together with {v}, the subsoil is being examined for old foundations.",
         "the University of Hammerby|the Technical College of Tolne|the Agricultural Academy"),
    ),
]  # fmt: skip

# Sentences without a question. The slots are filled anew each time, so that years, names and sums stand everywhere.
FILLERS = {
    "Beginnings": """\
The papers of those years fill four boxes, and {p} sorted them again in {year}.
A first attempt had been made in {year}, but it came to nothing when {p} moved to {town}.
The map that hangs in the entrance was drawn in {year} by {p}, a {trade}.
Nobody knows why the date on the foundation stone, {year}, is cut upside down.
In the war years the doors were open on Sundays only, and {p} kept the keys.
Up to {year} every decision had to be read aloud twice before it counted.
A song about the beginnings was printed in {town} and sold for {fee}.
The minutes of {month} {year} mention a quarrel about the width of a gate, which lasted for months.
{p} and {p} signed as witnesses; neither could later remember the day.""",
    "People": """\
{p} returned from leave in {month} and took over the rota from {p}.
Two posts were advertised in {town}, and {small} applications arrived.
The choir of the staff, conducted by {p}, sang at the hospital in {town}.
{p} celebrated twenty-five years of service and was given a clock.
Holidays were planned on one large sheet of paper, which {p} guards with a pencil.
For the night watch {small} people take turns, among them {p} and {p}.
A football match against the staff of {town} was lost by a narrow margin.
{p} has moved to the office on the first floor and answers the telephone on weekdays.
The works council met in {month} and in {month}, each time with {p} in the chair.
An exchange with {town} allowed {p} to spend a month there.""",
    "Premises": """\
The staircase was closed in {month} while {p} replaced the worn treads.
In the north room the plaster is damp, and {p} measures it every week.
A bench in memory of {p} has been placed beside the path.
The windows of the east side were cleaned for the first time since {year}.
The fence towards {town} was moved by {metres}, after a friendly talk with the neighbours.
The door to the attic sticks in wet weather, as it has done since {year}.
New lamps were hung in the corridor; {p} would have preferred the old ones.
The lawn is cut every second Friday from {month} to {month}.
A well was found under the kitchen floor, {metres} deep and quite dry.
The lease of the small shed was given up, which saves {fee} a month.""",
    "Money": """\
The auditors, {p} and {p}, found the books in good order.
A collection among the neighbours brought {fee} for new curtains.
Postage came to {fee}, more than in any year since {year}.
A loan to a sister organisation in {town} was paid back in {month}.
The sale of old furniture brought {fee}, most of it for one cupboard.
The price of firewood doubled, and {p} found a cheaper dealer in {town}.
Grants from the province came to {money}, paid in two parts.
A sum of {money} has been put aside for the years to come.
The cash box was counted each evening by two people, as {p} had proposed in {year}.
The accounts are open to every member in the office in {month}.""",
    "Equipment": """\
The ladder was tested in {month} and passed, though {p} had doubted it.
A set of spanners, lent to {town} in {year}, came back complete.
{p} has written a manual of {small} pages for whoever comes next.
The old typewriter was given to a school in {town}.
Every tool now hangs where its outline is painted on the wall.
The scales were checked by the office of weights in {month}.
A second-hand van with {thousands} kilometres on the clock replaced the cart.
Oil is changed in {month}, filters in {month}, and belts when {p} says so.
The pump in the yard, older than anyone can say, still gives water.
A trial with electric tools ended in {month}; the verdict of {p} was mixed.""",
    "Guests": """\
A class from {town} stayed for a whole day and drew everything it saw.
The tea room was run by {p}, with cakes from three bakers in {town}.
On rainy days in {month} hardly {small} people came.
A couple from {town} celebrated their wedding here on a Saturday in {month}.
Leaflets are now printed in four languages; {p} translated two of them.
The visit of the governor in {month} had to be put off twice.
{p} gave {small} guided tours, more than anybody else.
An evening with stories drew {small} listeners, although the road from {town} was icy.
The lost property box held {small} gloves, none of which matched.
A survey in {month} showed that most guests hear of the place from friends.""",
    "Incidents": """\
A window was broken in {month}; a boy from {town} owned up the next day.
The alarm rang {small} times, on each occasion because of a moth.
Ice on the steps in {month} led to a sprained wrist, which has healed.
Two sheep from {town} were found in the entrance and led home by {p}.
The telephone line was dead for some days in {month} after a tree fell.
A wasps' nest was moved by {p}, who keeps bees in {town}.
The water was turned off in {month} while the main was repaired.
A parcel for {town} was delivered here by mistake and forwarded by {p}.
Hail as large as cherries dented the van in {month}.""",
    "Rules": """\
Dogs are welcome on a lead, as has been the rule since {year}.
Keys are signed for in a book that {p} keeps in the office.
Bicycles stand behind the shed, never before the gate.
Groups of more than {small} are asked to write in advance.
The rules were last printed in {year}, and {p} still has a few copies.
Nobody works alone after dark, a rule that goes back to {p}.
Borrowed tools are returned clean, or not lent again.
The gate is locked at nine, in {month} and {month} at ten.""",
    "Plans": """\
A group led by {p} is looking into a ramp beside the steps.
Talks with {town} about a joint ticket will go on in {month}.
The path to the shore is to be widened once {money} have been found.
{p} has proposed an exhibition of old tools for {month}.
The archive is to be photographed page by page, which {p} expects to take years.
A visit to a similar house in {town} is planned for {month}.
The wish for longer hours in {month} will be put to a vote.
Seedlings for a hedge have been ordered in {town}, {small} in number.
The next report will be written by {p}, who hopes for a calmer year.""",
}

# For each month of the report's last section.
DIARY = """\
The month began with rain, and {p} spent three days on the gutters.
A delivery from {town} came late because of a burst tyre.
{p} gave a talk in {town} on what had been learnt since {year}.
The meeting of the {small}th week, chaired by {p}, ended after ten minutes.
A letter from {town} asked for advice on locks, which {p} answered at length.
The weather station read {small} millimetres of rain in one night.
{p} was ill for a week, and {p} stood in without a murmur.
Painters from {town} were in the house and left it brighter.
A photograph of {year} was found behind a drawer and framed by {p}.
The bill for paper and ink came to {fee}.
New gloves, {small} pairs of them, were handed out by {p}.
The road to {town} was closed, so that few people came.
{p} repaired the clock, which had been slow since {year}.
An inspector looked at the stairs and went away content.
The old account with the bank in {town} was closed; it held {fee}.
Two evenings were given to sorting keys, of which {small} fit no lock.
A storm from the west took {small} tiles, and {p} counted them in the grass.
The cat of {p} disappeared and came home from {town} by bus.
{p} proposed a new timetable, and it was tried for a fortnight.
The post brought a cheque for {fee} from an unknown friend in {town}.""".splitlines()


class Draw:
    """Random values for the slots of one document; no person is an answer twice."""

    def __init__(self, generator: random.Random) -> None:
        self.random = generator
        self.people = [f"{first} {last}" for first in FIRST for last in LAST]
        generator.shuffle(self.people)

    def value(self, kind: str) -> str:
        """A value of a kind, or one of the texts that `|` separates."""
        number = self.random.randint
        if kind in ("person", "p"):
            return self.people.pop()
        drawn = {
            "year": lambda: str(number(1821, 1988)),
            "money": lambda: f"{number(11, 980)},{number(0, 9)}00 crowns",
            "fee": lambda: f"{number(12, 480)} crowns",
            "small": lambda: str(number(11, 79)),
            "thousands": lambda: f"{number(3, 94)},{number(100, 999)}",
            "metres": lambda: f"{number(9, 88)} metres",
            "power": lambda: f"{number(15, 400)} kilowatts",
            "litres": lambda: f"{number(2, 60)},{number(100, 999)} litres",
            "age": lambda: str(number(7, 15)),
            "date": lambda: f"{number(1, 28)} {self.random.choice(MONTHS)}",
            "season": lambda: f"the {self.random.choice(('spring', 'autumn'))} of {number(2029, 2034)}",
            "town": lambda: self.random.choice(TOWNS),
            "month": lambda: self.random.choice(MONTHS),
            "trade": lambda: self.random.choice(TRADES),
        }
        return drawn[kind]() if kind in drawn else self.random.choice(kind.split("|"))

    def fill(self, text: str) -> str:
        """A sentence with each of its slots filled."""
        for kind in ("p", "town", "month", "trade", "year", "money", "fee", "small", "thousands", "metres"):
            while f"{{{kind}}}" in text:
                text = text.replace(f"{{{kind}}}", self.value(kind), 1)
        return text


def write_document(number: int, draw: Draw, asked: int, unanswerable: int) -> dict[str, Any]:
    """One report as an article of SQuAD's JSON: a paragraph of 1,500 to 3,000 words with its questions."""
    town, the = ORGANISATIONS[number]
    names = {"the": the, "The": the.capitalize()}
    left_out = draw.random.sample(FACTS, 9)
    stated: list[tuple[Fact, str, str]] = []
    for fact in FACTS:
        if fact not in left_out:
            value = draw.value(fact.values)
            sentence = draw.fill(draw.random.choice(fact.sentences)).format(v=value, **names)
            stated.append((fact, value, sentence))
    share = draw.random.uniform(0.6, 1.0)
    sections = [f"Report of {the} of {town}"]
    for section, fillers in FILLERS.items():
        chosen = [line for line in fillers.splitlines() if draw.random.random() < share]
        sentences = [draw.fill(line).format(**names) for line in chosen]
        sentences += [sentence for fact, _, sentence in stated if fact.section == section]
        draw.random.shuffle(sentences)
        sections.append(f"{section}\n" + " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences))
    for month in MONTHS:
        entries = draw.random.sample(DIARY, draw.random.randint(3, 8))
        sections.append(f"{month}\n" + " ".join(draw.fill(entry) for entry in entries))
    context = "\n\n".join(sections)
    questions = []
    for fact, value, sentence in draw.random.sample(stated, asked):
        start = context.index(sentence[1:]) - 1 + sentence.index(value)
        answers = [{"text": context[start : start + len(value)], "answer_start": start}]
        questions.append({"question": fact.question.format(**names), "answers": answers, "is_impossible": False})
    for fact in draw.random.sample(left_out, unanswerable):
        questions.append({"question": fact.question.format(**names), "answers": [], "is_impossible": True})
    for order, question in enumerate(questions):
        question["id"] = f"{town.lower()}-{order:02}"
    return {"title": f"{town}, {the}", "paragraphs": [{"context": context, "qas": questions}]}


def spoil(articles: list[dict[str, Any]]) -> None:
    """Make the three mistakes, in the first three documents."""
    shifted, misspelt, empty = (article["paragraphs"][0]["qas"][0]["answers"][0] for article in articles[:3])
    shifted["answer_start"] += 7
    misspelt["text"] = misspelt["text"][:-1] + "q"
    empty["text"] = ""


def write_data_set(folder: Path, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Write `train.json` and `validation.json` into a folder; returns the articles of each."""
    articles = []
    for number in range(len(ORGANISATIONS)):
        share = (number * QUESTIONS // 12, (number + 1) * QUESTIONS // 12)
        impossible = (number + 1) * UNANSWERABLE // 12 - number * UNANSWERABLE // 12
        draw = Draw(random.Random(f"{seed}-{number}"))
        articles.append(write_document(number, draw, share[1] - share[0] - impossible, impossible))
    spoil(articles)
    splits = {"train": articles[:-VALIDATION], "validation": articles[-VALIDATION:]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in splits.items():
        text = json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False, indent=1)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return splits


if __name__ == "__main__":
    for name, articles in write_data_set(Path(sys.argv[1] if len(sys.argv) > 1 else "own")).items():
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        words = [len(paragraph["context"].split()) for paragraph in paragraphs]
        questions = [question for paragraph in paragraphs for question in paragraph["qas"]]
        unanswerable = sum(question["is_impossible"] for question in questions)
        print(
            f"{name}: {len(articles)} documents of {min(words):,} to {max(words):,} words, {len(questions)} questions, "
            f"{unanswerable} of them unanswerable"
        )
